"""Completion: the scripts that shtab makes from our parser. A real bash runs the one for bash."""

import shutil
import subprocess
import sys

import pytest

from drsn_jax.cli.complete import SHELLS
from drsn_jax.cli.main import main, make_parser

# The input from readline: words, also split at "=", with the typed one last. compopt needs readline, which is missing here.
ASK = """
compopt() { :; }
source "$1"
shift
set -- drsn-jax "$@"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
registered=$(complete -p drsn-jax)
registered=${registered##*-F }
"${registered%% *}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell, capsys):
    pytest.importorskip("shtab", reason="it writes the scripts: pip install 'drsn-jax[completion]'")
    assert main(["complete", shell]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("rest", {"restore"}),
        ("restore --str", {"--strength"}),
        ("export --format sta", {"stablehlo"}),
        ("export --format = s", {"stablehlo", "savedmodel"}),
        ("export --format =", {"stablehlo", "savedmodel", "tflite", "onnx", "compact"}),
        ("train --config = dem", {"demo"}),
        ("train --config = demo --config.seed = 1 --work", {"--workdir"}),
        ("restore --model = ba", {"base"}),
        ("restore --model = my", {"my model"}),
        ("restore --panel ph", {"photo.jpg"}),
        ("restore photo.jpg --model small --pan", {"--panel"}),
        ("prepare gop", {"gopro"}),
        ("prepare gopro --blur = l", {"linear"}),
        ("complete z", {"zsh"}),
        ("nothing -", {"-h", "--help", "--version"}),
    ],
)
def test_bash_completes_verbs_options_choices_and_files(words, answers, tmp_path, capsys):
    if not (bash := shutil.which("bash")):
        pytest.skip("there is no bash")
    (tmp_path / "script").write_text(script("bash", capsys))
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "my model").mkdir()
    done = subprocess.run([bash, "-c", ASK, "ask", "./script", *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.splitlines()) == answers


def test_every_shell_has_its_script(capsys):
    for shell in SHELLS:
        text = script(shell, capsys)
        assert all(name in text for name in ("drsn-jax", "realblur", "stablehlo", "self-ensemble"))
        if program := shutil.which(shell):
            done = subprocess.run([program, "-n"], input=text, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), shell
    assert '"--format=[' in script("zsh", capsys)
    assert '"--overwrite[' in script("zsh", capsys), "a flag takes no value"
    assert ":HOST\\:PORT:" in script("zsh", capsys), "a colon would end the name of the value"


def test_without_shtab_all_but_this_verb_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert make_parser().parse_args(["restore", "a.jpg"]).verb == "restore"
    assert main(["complete", "bash"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'drsn-jax[completion]'" in err
