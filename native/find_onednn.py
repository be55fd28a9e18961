"""Prints where PyPI's packages have put oneDNN, for CMake: include folder;library;licence;notices of third parties.

Both packages install into the prefix of their environment, which is not the interpreter's where pip builds in isolation.
"""

from importlib.metadata import distribution


def find(package: str, ending: str) -> str:
    """Returns the path of the file of a distribution that ends so; raises FileNotFoundError."""
    for path in distribution(package).files or ():
        if path.as_posix().endswith(ending):
            return distribution(package).locate_file(path).resolve().as_posix()  # pyright: ignore[reportAttributeAccessIssue]
    raise FileNotFoundError(f"{package} has no file {ending}; install the version that pyproject.toml names.")


if __name__ == "__main__":
    header = find("onednn-devel-cpu-gomp", "/include/dnnl.hpp")
    library = find("onednn-cpu-gomp", "/libdnnl.so.3")
    texts = [find("onednn-cpu-gomp", f"share/doc/onednn/{name}") for name in ("LICENSE", "THIRD-PARTY-PROGRAMS")]
    print(";".join([header.removesuffix("/dnnl.hpp"), library, *texts]))  # noqa: T201
