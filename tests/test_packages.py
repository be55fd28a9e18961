"""The wheel and the sdist: what is in them, that an index takes them, and that what was installed from them runs without the checkout."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from release.__main__ import BEFORE_THE_FIRST, check_release, read_notes, read_version

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
ISSUES = ROOT / ".github" / "ISSUE_TEMPLATE"


def run(*argv, **options):
    done = subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Build the wheel and the sdist."""
    pytest.importorskip("hatchling", reason="the build backend: pip install 'drsn-jax[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder / f"drsn_jax-{read_version()}-py3-none-any.whl", folder / f"drsn_jax-{read_version()}.tar.gz"


@pytest.fixture(scope="module")
def installed(packages, tmp_path_factory):
    """Install the sdist; return its folder, and an environment without other copies."""
    folder = tmp_path_factory.mktemp("installed")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", folder, packages[1])
    return folder, {"PYTHONPATH": str(folder), "PATH": "", "HOME": str(folder), "JAX_PLATFORMS": "cpu"}


def test_the_wheel_holds_all_that_is_read_at_run_time(packages):
    with zipfile.ZipFile(packages[0]) as archive:
        names = set(archive.namelist())
    of_package = {path for path in (ROOT / "drsn_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {str(path.relative_to(ROOT)) for path in of_package} <= names
    assert {f"drsn_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= names
    for name in ("py.typed", "serving/page.html", "evaluation/report/report.html.jinja", "weights/shipped/small/compact.json"):
        assert f"drsn_jax/{name}" in names
    assert {name.split("/")[0] for name in names} == {"drsn_jax", f"drsn_jax-{read_version()}.dist-info"}


def test_the_sdist_holds_the_tests_and_nothing_of_this_machine(packages):
    with tarfile.open(packages[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "tests/conftest.py", "configs/default.py"} <= names
    assert not [name for name in names if re.match(r"\.git/|\.jax_cache|runs/|.*__pycache__", name)]


def test_an_index_takes_both(packages):
    pytest.importorskip("twine", reason="the check of an index: pip install 'drsn-jax[dev]'")
    assert run("-m", "twine", "check", "--strict", *packages).count("PASSED") == 2


def test_what_the_sdist_installs_has_its_version_and_its_configurations(installed, tmp_path):
    folder, environment = installed
    code = "import drsn_jax, drsn_jax.config as c; print(drsn_jax.__version__, c.__file__, c.load_config('demo')['data'])"
    said = run("-P", "-c", code, cwd=tmp_path, env=environment).split()
    assert said == [read_version(), str(folder / "drsn_jax" / "config" / "__init__.py"), "demo"]
    assert (folder / "bin" / "drsn-jax").exists() or (folder / "Scripts").exists()


@pytest.mark.soak
def test_what_the_sdist_installs_restores_evaluates_and_describes(installed, tmp_path, rng):
    _, environment = installed
    for side in ("blur", "sharp"):
        (tmp_path / side).mkdir()
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / side / "a.png")
    command = ("-P", "-m", "drsn_jax")
    run(*command, "restore", "blur/a.png", cwd=tmp_path, env=environment)
    assert Image.open(tmp_path / "blur" / "a.restored.png").size == (64, 48)
    (tmp_path / "blur" / "a.restored.png").unlink()
    run(*command, "evaluate", "--model=small", "--blurred=blur", "--sharp=sharp", "--output=report", cwd=tmp_path, env=environment)
    assert "<!DOCTYPE html>" in (tmp_path / "report" / "report.html").read_text()
    assert f"drsn-jax {read_version()}" in run(*command, "info", cwd=tmp_path, env=environment)


# What surrounds a release


def test_a_tag_that_differs_from_the_version_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (2027-01-01)\n\n- New.\n\n## 1.1.0 (2026-12-01)\n\n- Old.\n")
    (tmp_path / "README.md").write_text("pip install drsn-jax\n")
    assert check_release("v1.2.0", tmp_path) == "- New."
    for tag in ("1.2.0", "v1.2.1", "v1.2.0rc1"):
        with pytest.raises(ValueError, match=rf"The tag is {tag}, and pyproject\.toml has version 1\.2\.0: tag the commit v1\.2\.0"):
            check_release(tag, tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.3.0"\n')
    with pytest.raises(ValueError, match=r"no notes of 1\.3\.0"):
        check_release("v1.3.0", tmp_path)


def test_a_release_without_its_day_or_with_the_readme_of_before_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.0.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.0.0 (unreleased)\n\n- New.\n")
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    with pytest.raises(ValueError, match=r"'## 1\.0\.0 \(unreleased\)': write the day of the release in it, as `## 1\.0\.0 \(20\d\d-"):
        check_release("v1.0.0", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.0.0 (2027-01-01)\n\n- New.\n")
    if BEFORE_THE_FIRST in (ROOT / "README.md").read_text():
        with pytest.raises(ValueError, match="make `pip install drsn-jax` its first command"):
            check_release("v1.0.0", tmp_path)
    (tmp_path / "README.md").write_text("pip install drsn-jax\n")
    assert check_release("v1.0.0", tmp_path) == "- New."


def test_this_version_has_notes_and_is_written_once():
    assert read_notes(read_version())
    assert "metadata.version(" in (ROOT / "drsn_jax" / "__init__.py").read_text()
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")


def test_the_workflows_do_what_the_project_says():
    flows = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS.glob("*.yml")}
    assert flows["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert all(flow["permissions"] == {"contents": "read"} for flow in flows.values()), "more is given to single jobs"
    release = flows["release"]["jobs"]
    commands = [step["run"] for step in release["build"]["steps"] if "run" in step]
    assert commands[0].startswith('python -m tools.release "$GITHUB_REF_NAME"'), "before anything is built"
    assert (release["publish"]["needs"], release["announce"]["needs"]) == ("build", "publish")
    assert release["publish"]["permissions"] == {"id-token": "write"}
    for step in (step for flow in flows.values() for job in flow["jobs"].values() for step in job["steps"]):
        assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step["uses"])
        assert not (script := step.get("run", "")).startswith(".ci") or (ROOT / script).exists()


def test_issues_ask_for_the_environment_and_hooks_are_those_of_ci():
    forms = [yaml.safe_load(path.read_text()) for path in ISSUES.glob("*.yml") if path.stem != "config"]
    assert len(forms) == 3
    for form in forms:
        labels = [item["attributes"]["label"] for item in form["body"]]
        assert "What `drsn-jax info --environment` prints" in labels
        assert len({item["id"] for item in form["body"]}) == len(labels)
    [repo] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert [hook["name"] for hook in repo["hooks"]] == ["ruff check", "ruff format", "pyright"]
    assert all(hook["name"] in ci for hook in repo["hooks"])
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["cff-version"] == "1.2.0"
