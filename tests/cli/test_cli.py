"""The command line: verbs, exit codes, and that a mistake is one line while a bug of ours keeps its traceback."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny
from PIL import Image

from drsn_jax import __version__
from drsn_jax.cli.main import VERBS, main
from drsn_jax.system.errors import InputError, TrainingDivergedError
from drsn_jax.system.paths import any_path

SCRIPT = Path(sys.executable).parent / "drsn-jax"


def run(*arguments):
    """Return the exit code, also if argparse exits by itself."""
    try:
        return main(list(arguments))
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def verb(monkeypatch):
    """Replace the function of `restore`."""

    def replace(function):
        monkeypatch.setitem(VERBS, "restore", VERBS["restore"]._replace(run=function))
        return ("restore", "--model=m", "in.png", "--output=out")

    return replace


def raising(error):
    def function(arguments):
        raise error

    return function


def test_verbs_and_their_help(capsys):
    assert list(VERBS) == [
        "prepare",
        "train",
        "evaluate",
        "plot",
        "compare",
        "convert",
        "export",
        "push",
        "restore",
        "serve",
        "bench",
        "info",
        "complete",
    ]
    assert run("--help") == 0
    text = capsys.readouterr().out
    for name, entry in VERBS.items():
        assert re.search(rf"^ +{name}\s", text, re.MULTILINE)
        assert " ".join(entry.help.split()) in " ".join(text.split())


def test_without_arguments_the_verbs_are_listed(capsys):
    assert run() == 0
    out, err = capsys.readouterr()
    assert all(name in out for name in VERBS)
    assert err == ""


def test_a_name_with_a_dash_is_taken_after_two(verb, capsys):
    seen = []
    verb(lambda given: seen.append(given) or 0)
    assert run("restore", "--model=m", "--", "-dash.jpg", "-1.5") == 0
    assert [str(path) for path in seen[0].inputs] == ["-dash.jpg", "-1.5"]
    assert run("evaluate", "--model=m", "--blurred=b", "--output=o", "--noise-variance=-1.5") == 2, "a number is no name"
    assert "taken for an option" not in capsys.readouterr().err


ADDRESSES = ("http://example.com/x.png", "hf://owner/name", "ftp://host/x", "az://container/x", "file:///x")
LOCAL = ("gs://bucket/x", "s3://bucket/x")


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        *((("restore", "{}"), address) for address in (*ADDRESSES, *LOCAL)),
        *(
            (arguments, address)
            for address in ("http://example.com/x", "gs://bucket/x")
            for arguments in (
                ("restore", "in.png", "--output={}"),
                ("evaluate", "--model=small", "--output=o", "--blurred={}"),
                ("evaluate", "--model=small", "--output=o", "--blurred=b", "--compare", "them={}"),
                ("prepare", "gopro", "--source={}"),
                ("prepare", "video", "--source", "{}", "--output=o"),
                ("convert", "--input={}", "--output=o"),
                ("export", "--model=small", "--output=o", "--image={}"),
                ("train", "--config={}", "--workdir=w"),
                ("train", "--config=demo", "--workdir=w", "--config.eval_dir={}"),
                ("train", "--config=default", "--workdir=w", "--config.data=pairs", "--config.train_dir={}"),
                ("train", "--config=demo", "--workdir=w", "--config.frames_dir={}"),
                ("train", "--config=demo", "--workdir=w", "--config.vgg19={}"),
                ("bench", "--output={}"),
            )
        ),
    ],
    ids=str,
)
def test_an_address_where_a_path_on_this_machine_is_needed_is_one_line(arguments, address, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.format(address) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert f"{address} is an address ({address.split(':')[0]}://), and a path on this machine is needed" in err
    assert not list(tmp_path.iterdir()), "a folder of that name"


@pytest.mark.parametrize("address", ["http://example.com/x", "ftp://owner/name"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--config=default", "--workdir={}"),
        ("train", "--config=demo", "--workdir=w", "--config.init_from={}"),
        ("restore", "in.png", "--model={}"),
        ("evaluate", "--model=small", "--blurred=b", "--output={}"),
        ("export", "--model=small", "--output={}"),
        ("compare", "{}", "b"),
        ("info", "--model={}"),
        ("serve", "--model={}"),
    ],
    ids=" ".join,
)
def test_an_address_of_neither_kind_of_bucket_is_one_line(arguments, address, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.format(address) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert f"{address} is an address that cannot be opened" in err
    assert "gs://BUCKET/PATH" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "missing", "says"),
    [
        ("gs://bucket/run", "gcsfs", "needs the package gcsfs, which is not installed; pip install 'drsn-jax[cloud]'"),
        ("s3://bucket/run", "s3fs", "needs the package s3fs"),
        ("s3://bucket", "", "names no place in a bucket; write s3://BUCKET/PATH"),
        ("gs://", "", "names no place in a bucket"),
        ("s3://bucket/run[1]", "", "contains [ ], a pattern"),
    ],
)
def test_what_is_missing_for_a_bucket_is_one_line_before_anything_begins(address, missing, says, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == missing else find(name, *more))
    for arguments in (("train", "--config=demo", f"--workdir={address}"), ("info", f"--model={address}")):
        assert run(*arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert says in err


def test_a_path_that_lost_a_slash_is_still_a_bucket():
    assert str(any_path(Path("gs://bucket/run"))) == "gs://bucket/run"
    assert any_path("~/x") == Path("~/x").expanduser()
    assert any_path("2024-08-20T13:28:35Z.mp4") == Path("2024-08-20T13:28:35Z.mp4")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("train", ["--config", "--workdir", "--config.KEY=VALUE"]),
        (
            "evaluate",
            ["--model", "--blurred", "--sharp", "--noise-variance", "--protocol", "--output", "--panels", "--overwrite", "--tile"],
        ),
        ("restore", ["INPUT", "--output", "--panel", "--strength", "--self-ensemble", "--device", "--tile", "--overlap", "--whole"]),
        ("bench", ["--config", "--against", "--rows", "--batch-size", "--seconds", "--profile", "--output"]),
        ("info", ["--config", "--model"]),
    ],
)
def test_help_of_each_verb(name, options, capsys):
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert all(option in text for option in options), text


@pytest.mark.parametrize("name", VERBS)
def test_help_is_in_groups_with_examples(name, capsys):
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    assert "Examples:\n" in text
    assert all(f"  {example}\n" in text for example in VERBS[name].examples)
    assert len(VERBS[name].examples) >= 2
    assert "\x1b" not in text, "no colour where there is no terminal"


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"drsn-jax {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["'trian'", ", ".join(map(repr, VERBS))]),
        (["restore", "-dash.jpg"], ["-dash.jpg is taken for an option", "`drsn-jax restore -- -dash.jpg`"]),
        (["evaluate", "-a b.tar.gz"], ["`drsn-jax evaluate -- -a b.tar.gz`"]),
        (["train"], ["--config, --workdir", "drsn-jax train --help"]),
        (["train", "--config=demo"], ["--workdir"]),
        (["info", "--confg=demo"], ["--confg=demo", "did you mean --config?", "drsn-jax info --help"]),
        (["info", "surplus"], ["unrecognized arguments: surplus"]),
        (["evaluate", "--model=m", "--blurred=b", "--sharp=s", "--output=o", "--noise_variance=1"], ["did you mean --noise-variance?"]),
        (["evaluate", "--model=m", "--blurred=b", "--sharp=s", "--output=o", "--panels=many"], ["--panels", "'many'"]),
        (["restore", "--model=m", "in.png", "--output=o", "--config.seed=1"], ["--config.seed=1", "`restore` takes no configuration"]),
        (["evaluate", "--model=m", "--blurred=b", "--sharp=s", "--output=o", "--config.seed=1"], ["`evaluate` takes no configuration"]),
        (["info", "--config.seed", "1"], ["--config.seed=VALUE"]),
        (["info", "--config.seedd=1"], ["did you mean seed?"]),
        (["info", "--config=nonsense"], ["'nonsense'", "demo"]),
        (["info", "--mod=x"], ["--mod=x", "did you mean --model?"]),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, words, capsys):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drsn-jax: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_what_a_verb_is_given(verb, capsys):
    seen = []
    arguments = verb(lambda given: seen.append(given) or 7)
    assert run(*arguments) == 7
    assert str(seen[0].inputs[0]) == "in.png"
    assert seen[0].command == "drsn-jax restore --model=m in.png --output=out"
    assert (seen[0].tile, seen[0].overlap, seen[0].whole, seen[0].overwrite) == (None, None, False, False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("The name is wrong."), 2, "The name is wrong."),
        (TrainingDivergedError("loss became infinite"), 1, "loss became infinite"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/full/file"), 2, "/full/file: No space left on device; make room there"),
        (PermissionError(13, "Permission denied", "/closed"), 2, "/closed: Permission denied"),
    ],
)
def test_failures_that_are_one_line(error, code, message, verb, capsys):
    assert run(*verb(raising(error))) == code
    err = capsys.readouterr().err
    assert err.startswith(f"drsn-jax: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(2, "No such file"), RuntimeError("a bug")])
def test_our_own_failures_are_not_hidden(error, verb):
    with pytest.raises(type(error)):
        main(list(verb(raising(error))))


def test_our_own_failure_keeps_its_traceback_and_code_1():
    code = """
import sys
from drsn_jax.cli import main as cli
cli.VERBS["restore"] = cli.VERBS["restore"]._replace(run=lambda arguments: 1 / 0)
sys.exit(cli.main(["restore", "--model=m", "a", "--output=o"]))
"""
    done = subprocess.run([sys.executable, "-c", code], env=tiny.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_pipe_that_is_closed_is_no_failure():
    shell = f"{sys.executable} -m drsn_jax info --config=demo | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], env=tiny.environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["--version"], ["info", "--config.nope=1"]])
def test_module_and_console_script_are_the_same(arguments, tmp_path):
    if not SCRIPT.exists():
        pytest.skip(f"the package is not installed beside this Python: there is no {SCRIPT}")
    module = tiny.fresh_command(*arguments, cwd=tmp_path)
    script = subprocess.run([SCRIPT, *arguments], cwd=tmp_path, env=tiny.environment(), capture_output=True, text=True, check=False)
    assert (module.returncode, module.stdout, module.stderr) == (script.returncode, script.stdout, script.stderr)
    assert module.returncode == (0 if arguments == ["--version"] else 2)


def test_info_counts_parameters_as_spec_does(capsys):
    assert run("info", "--config=keras_reference") == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("generator", "critic", "both"))}
    assert rows == {
        "generator": ["12,577,539", "12,592,643"],
        "critic": ["3,096,450", "3,098,370"],
        "both": ["15,673,989", "15,691,013"],
    }
    assert '  threshold_norm = "batch"' in text
    assert f"jax {jax.__version__}" in text
    assert "cpu:0" in text
    assert "best, default, demo, keras_reference, paper" in text


def test_info_environment_for_bug_reports(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS_OF_A_TEST", "1")
    assert run("info", "--environment") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"drsn-jax: {__version__}"
    assert f"  jax {jax.__version__}" in lines
    assert "  XLA_FLAGS_OF_A_TEST=1" in lines
    assert any(line.startswith("devices: cpu:0") for line in lines)
    assert any(line.startswith("  drsn-jax-native ") for line in lines)
    assert run("info", "--environment", "--json") == 0
    environment = json.loads(capsys.readouterr().out)
    assert environment["packages"]["jax"] == jax.__version__
    assert run("info", "--memory", "--environment") == 2


def test_info_as_json(capsys):
    assert run("info", "--config=keras_reference", "--config.critic_steps=3", "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["config"]["critic_steps"], err) == (3, "")
    assert document["parameters"] == {"generator": [12_577_539, 12_592_643], "critic": [3_096_450, 3_098_370]}
    assert run("info", "--json", "--costs") == 2


def test_restore_as_json_and_quietly(tmp_path_factory, photograph, tmp_path, capsys):
    model = tiny.trained(tmp_path_factory, photograph)
    photo, result = tmp_path / "a.png", tmp_path / "a.restored.png"
    Image.fromarray(photograph[:20, :24]).save(photo)
    missing = tmp_path / "missing.png"
    assert run("restore", f"--model={model}", "--json", "--quiet", str(photo), str(missing)) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["restored"] == [str(result)]
    assert [one["input"] for one in document["failed"]] == [str(missing)]
    assert result.exists()
    assert err == f"drsn-jax: {document['failed'][0]['error']}\n", "a failure is said, progress is not"
    result.unlink()
    assert run("restore", f"--model={model}", "--quiet", str(photo)) == 0
    assert capsys.readouterr() == ("", "")


def test_training_quietly(tmp_path_factory, photograph, tmp_path, capsys):
    workdir = tmp_path / "run"
    photos = tiny.write_photos(tmp_path / "photos", photograph)
    arguments = tiny.train_arguments(workdir, data="photos", train_dir=photos, num_train_steps=1, batch_size=8)
    assert run(*arguments, "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert (workdir / "checkpoints" / "1").is_dir()


def test_info_with_changes(capsys):
    assert run("info", "--config=demo", "--config.widths=4,6,8") == 0
    out = capsys.readouterr().out
    assert "  widths = [4, 6, 8]" in out
    assert "not trained" not in out
    assert run("info", "--config=demo", "--config.adversarial_weight=0.0") == 0
    assert "The critic is not trained" in capsys.readouterr().out


def test_info_on_a_model(tmp_path_factory, photograph, capsys, monkeypatch):
    workdir = tiny.trained(tmp_path_factory, photograph)
    monkeypatch.chdir(workdir.parent)  # a relative path has to do as well
    for model in ("run", str(workdir), "run/checkpoints", "run/checkpoints/2"):
        assert run("info", f"--model={model}") == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "  widths = [4, 6, 8]" in out
        assert "checkpoints/2:" in out
    assert run("info", "--model=run", "--config.seed=1") == 2
    assert "--config.seed=1" in capsys.readouterr().err
    for model, words in (("nope", "There is no nope"), ("photos", "holds no checkpoint"), ("run/config.json", "holds no checkpoint")):
        assert run("info", f"--model={model}") == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "--model=loop"),
        ("train", "--config=demo", "--config.batch_size=8", "--workdir=loop"),
        ("evaluate", "--model=small", "--blurred=blurred", "--output=report", "--protocol=noreference", "--compare=loop"),
        ("restore", "loop", "--output=out"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_link_that_points_at_itself_is_one_line_and_code_2(arguments, tmp_path, monkeypatch, capsys):
    """`Path.resolve` raises on it in Python 3.11 and 3.12."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("blurred").mkdir()
    Image.new("RGB", (32, 32)).save(Path("blurred", "a.png"))
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "loop" in err
