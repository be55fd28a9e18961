"""Print the paths of oneDNN from PyPI's packages, for CMake: include folder;library;licence;notices of third parties.

Both packages install into the prefix of their environment. In pip's isolated build this is not the interpreter's prefix.
"""

from importlib.metadata import distribution


def find(package: str, ending: str) -> str:
    """Return the path of a distribution's file with this ending; raises FileNotFoundError."""
    for path in distribution(package).files or ():
        if path.as_posix().endswith(ending):
            return distribution(package).locate_file(path).resolve().as_posix()  # pyright: ignore[reportAttributeAccessIssue]
    raise FileNotFoundError(f"{package} has no file {ending}; install the version that pyproject.toml names.")


if __name__ == "__main__":
    header = find("onednn-devel-cpu-gomp", "/include/dnnl.hpp")
    library = find("onednn-cpu-gomp", "/libdnnl.so.3")
    texts = [find("onednn-cpu-gomp", f"share/doc/onednn/{name}") for name in ("LICENSE", "THIRD-PARTY-PROGRAMS")]
    print(";".join([header.removesuffix("/dnnl.hpp"), library, *texts]))  # noqa: T201
