"""What `drsn-jax bench` makes of its samples and of its workers; real ones of Keras and ours are in test_bench_run.py."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny

from drsn_jax.benchmark import bench, measuring, rows
from drsn_jax.benchmark.bench_table import format_bench, format_seconds
from drsn_jax.benchmark.loader_rows import prepare, prepare_ours, write_pairs
from drsn_jax.benchmark.measuring import measure_row
from drsn_jax.benchmark.prepared import find_best_batch
from drsn_jax.benchmark.processes import COMMAND, SkippedError, Worker, WorkerError
from drsn_jax.benchmark.rows import KERAS, LOADER, OURS, OURS_BFLOAT16, ROWS, choose_keras, choose_rows, choose_subjects
from drsn_jax.cli.main import main
from drsn_jax.config.files import load_config
from drsn_jax.system.errors import InputError

STEP = ROWS["training-step"]


class FakeWorker(Worker):
    """Answers as a worker whose calls take so many seconds; every request is noted in `log`."""

    def __init__(self, subject, log, *, seconds=1.0, platform="cpu", fails=None, images=1, macs=None, ceiling=None):
        self.subject, self.log, self.fails = subject, log, dict(fails or {})
        self.seconds = itertools.repeat(seconds) if isinstance(seconds, float) else iter(seconds)
        self.hello = {"platform": platform, "device": platform}
        warm_call = seconds if isinstance(seconds, float) else 1.0
        self.prepared = {
            "first_call": 9.0,
            "warm_call": warm_call,
            "calls": 1,
            "images": images,
            "macs": macs,
            "peak_bytes": 10**9,
            "about": "",
        }
        self.ceiling, self.sent = ceiling, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.log.append((self.subject, "close"))

    def send(self, do, **_):
        self.sent = do

    def receive(self):
        return self.ask(self.sent)

    def ask(self, do, **_):
        self.log.append((self.subject, do))
        if do in self.fails:
            error = self.fails[do]
            if callable(error):
                error()
            else:
                raise error
        if do == "hello":
            return self.hello
        return self.prepared if do == "prepare" else {"seconds": next(self.seconds), "ceiling": self.ceiling}


def measure(workers, *, row=STEP, seconds=3.0, interleave=True):
    configs = dict.fromkeys(workers)
    how = {"configs": configs, "folder": "", "seconds": seconds, "interleave": interleave, "say": lambda text: None}
    measured = measure_row(row, list(workers), start_fn=workers.__getitem__, **how)
    return measured, {cell["subject"]: cell for cell in measured["cells"]}


def test_subjects_are_timed_in_turn_once_each_is_ready():
    log = []
    measured, _ = measure({name: FakeWorker(name, log) for name in ("ours-float32", "keras-tensorflow", "keras-jax")})
    names = ["ours-float32", "keras-tensorflow", "keras-jax"]
    expected = [(name, do) for do in ("hello", "prepare", "time", "time", "time") for name in names]
    assert [entry for entry in log if entry[1] != "close"] == expected
    assert {entry for entry in log if entry[1] == "close"} == {(name, "close") for name in names}
    assert measured["interleaved"] is True


def test_a_slow_subject_is_timed_fewer_times_and_a_fast_one_at_most_so_often():
    log = []
    _, cells = measure(
        {"ours-float32": FakeWorker("ours-float32", log, seconds=0.5), "keras-jax": FakeWorker("keras-jax", log, seconds=50.0)}
    )
    assert (cells["ours-float32"]["n"], cells["keras-jax"]["n"]) == (3, 2)
    _, cells = measure(
        {"ours-float32": FakeWorker("ours-float32", log, seconds=20.0), "keras-jax": FakeWorker("keras-jax", log, seconds=50.0)}
    )
    assert (cells["ours-float32"]["n"], cells["keras-jax"]["n"]) == (3, 3)  # both are slow
    _, cells = measure(
        {"ours-float32": FakeWorker("ours-float32", log, seconds=1.0), "keras-jax": FakeWorker("keras-jax", log)}, seconds=14
    )
    assert (cells["ours-float32"]["n"], cells["keras-jax"]["n"]) == (7, 7)
    _, cells = measure({"ours-float32": FakeWorker("ours-float32", log, seconds=0.001)}, seconds=1000)
    assert cells["ours-float32"]["n"] == measuring.MOST


def test_one_after_the_other_where_the_device_cannot_be_shared():
    log = []
    measured, _ = measure({name: FakeWorker(name, log) for name in ("ours-float32", "keras-jax")}, interleave=False)
    order = [name for name, _ in log]
    assert order == ["ours-float32"] * 6 + ["keras-jax"] * 6
    assert measured["interleaved"] is False
    log.clear()
    measure({name: FakeWorker(name, log) for name in ("ours-float32", "keras-jax")}, row=ROWS["best-batch"])
    assert [name for name, _ in log] == order


def test_statistics_ratio_and_share_of_the_peak():
    log = []
    measured, _ = measure(
        {
            "ours-float32": FakeWorker("ours-float32", log, seconds=(2.0, 4.0, 3.0), macs=3 * 10**9, ceiling=8e9),
            "keras-tensorflow": FakeWorker("keras-tensorflow", log, seconds=(6.0, 6.0, 7.0)),
            "keras-jax": FakeWorker("keras-jax", log, seconds=(20.0, 19.0, 21.0)),
        }
    )
    cells = {cell["subject"]: cell for cell in measured["cells"]}
    ours = cells["ours-float32"]
    assert (ours["median"], ours["spread"], ours["n"], ours["seconds"]) == (3.0, [2.0, 4.0], 3, [2.0, 4.0, 3.0])
    assert (ours["first_call"], ours["compile_seconds"]) == (9.0, 6.0)
    assert cells["keras-jax"]["compile_seconds"] == 0.0  # a first call that was faster than the others
    assert measured["ratios"] == {"float32": {"ratio": 2.0, "fastest_keras": "keras-tensorflow"}}  # ours takes half the time
    assert ours["share_of_peak"] == pytest.approx(2 * 3e9 / 3.0 / 8e9)
    assert cells["keras-tensorflow"]["share_of_peak"] == pytest.approx(2 * 3e9 / 6.0 / 8e9)  # of the same nominal work and peak


def test_each_precision_has_a_peak_and_a_ratio_of_its_own():
    log = []
    measured, cells = measure(
        {
            OURS: FakeWorker(OURS, log, seconds=4.0, macs=10**9, ceiling=1e9, platform="gpu"),
            OURS_BFLOAT16: FakeWorker(OURS_BFLOAT16, log, seconds=1.0, macs=10**9, ceiling=8e9, platform="gpu"),
            "keras-jax": FakeWorker("keras-jax", log, seconds=2.0, platform="gpu"),
            "keras-jax-bfloat16": FakeWorker("keras-jax-bfloat16", log, seconds=3.0, platform="gpu"),
        }
    )
    assert {precision: found["ratio"] for precision, found in measured["ratios"].items()} == {"float32": 0.5, "bfloat16": 3.0}
    shares = [cells[name]["share_of_peak"] for name in cells]
    assert shares == pytest.approx([0.5, 0.25, 1.0, 0.25 / 3])


def test_another_device_than_ours_counts_neither_for_the_ratio_nor_for_the_share():
    log = []
    workers = {
        OURS: FakeWorker(OURS, log, seconds=1.0, macs=10**9, ceiling=1e10, platform="gpu"),
        "keras-tensorflow": FakeWorker("keras-tensorflow", log, seconds=0.5, platform="cpu"),
        "keras-jax": FakeWorker("keras-jax", log, seconds=3.0, platform="gpu"),
    }
    measured, cells = measure(workers)
    assert measured["ratios"] == {"float32": {"ratio": 3.0, "fastest_keras": "keras-jax"}}
    assert "share_of_peak" not in cells["keras-tensorflow"]
    [note] = bench._explain([{"name": STEP.name, "title": "training step", **measured}])
    assert "keras-tensorflow on cpu" in note


def test_where_calls_differ_in_images_seconds_are_of_one():
    log = []
    workers = {OURS: FakeWorker(OURS, log, seconds=4.0, images=16, platform="gpu"), LOADER: FakeWorker(LOADER, log, seconds=4.0, images=8)}
    measured, cells = measure(workers, row=ROWS["input-pipeline"])
    assert (cells[OURS]["median"], cells[LOADER]["median"], measured["ratios"]["float32"]["ratio"]) == (0.25, 0.5, 2.0)
    assert (cells[OURS]["images_per_second"], cells[LOADER]["images_per_second"]) == (4.0, 2.0)
    assert cells[OURS]["compile_seconds"] is None


@pytest.mark.parametrize("when", ["hello", "prepare", "time"])
def test_one_that_fails_says_so_and_the_others_go_on(when):
    log = []
    workers = {
        OURS: FakeWorker(OURS, log),
        "keras-tensorflow": FakeWorker("keras-tensorflow", log, fails={when: WorkerError("was killed by signal 9")}),
        "keras-jax": FakeWorker("keras-jax", log, seconds=2.0),
    }
    measured, cells = measure(workers)
    assert cells["keras-tensorflow"]["error"] == "was killed by signal 9"
    assert "median" not in cells["keras-tensorflow"]
    seen = [do for name, do in log if name == "keras-tensorflow"]
    assert set(seen[seen.index(when) + 1 :]) == {"close"}
    assert (measured["ratios"]["float32"]["ratio"], cells["keras-jax"]["n"]) == (2.0, 3)


def test_without_ours_there_is_no_ratio():
    log = []
    workers = {OURS: FakeWorker(OURS, log, fails={"time": WorkerError("died")}), "keras-jax": FakeWorker("keras-jax", log)}
    measured, cells = measure(workers)
    assert measured["ratios"] == {}
    assert cells["keras-jax"]["median"] == 1.0
    assert bench.failures({"rows": [{"title": "step", **measured}]}) == ["step, ours-float32: died"]


def test_a_skipped_cell_is_no_failure():
    measured, cells = measure({OURS: FakeWorker(OURS, [], fails={"prepare": SkippedError("needs TensorFlow")})})
    assert cells[OURS]["skipped"] == "needs TensorFlow"
    assert bench.failures({"rows": [{"title": "step", **measured}]}) == []


def test_an_interrupt_ends_every_worker():
    def interrupt():
        raise KeyboardInterrupt

    log = []
    workers = {OURS: FakeWorker(OURS, log), "keras-jax": FakeWorker("keras-jax", log, fails={"time": interrupt})}
    with pytest.raises(KeyboardInterrupt):
        measure(workers)
    assert {(OURS, "close"), ("keras-jax", "close")} <= set(log)


def script(code, **options):
    options = {"environment": tiny.environment(), "timeout": 60.0} | options
    return Worker(command=(sys.executable, "-c", code), **options)


def test_a_worker_that_prints_does_not_break_the_answers():
    chatter = "print('chatter'), os.system('echo more'), sys.stdout.flush(), os.write(1, b'{not json')"
    code = f"""
import os, sys
from drsn_jax.benchmark import worker
worker._answer = lambda session, do, arguments: ({chatter}, {{"done": do, **arguments}})[-1]
worker.main()
"""
    with script(code) as worker:
        for number in range(3):
            assert worker.ask("this", number=number) == {"done": "this", "number": number}


def test_a_worker_that_dies_leaves_its_last_words():
    with script("import sys; sys.stdin.readline(); sys.stderr.write('no more\\nmemory'); sys.exit(3)") as worker:
        for _ in range(2):  # whoever asks again is told the same
            with pytest.raises(WorkerError, match="ended with code 3; its last output: no more memory"):
                worker.ask("time")
    with script("import os; os.kill(os.getpid(), 9)") as worker, pytest.raises(WorkerError, match="killed by signal 9"):
        worker.ask("time")


def test_a_worker_that_is_silent_is_ended():
    with script("import time; time.sleep(100)", timeout=0.3) as worker:
        with pytest.raises(WorkerError, match=r"no answer in 0\.3 s .*--timeout"):
            worker.ask("time")
        assert worker._process.poll() is not None


def test_answers_that_are_none():
    with script("input(); print('hello')") as worker, pytest.raises(WorkerError, match="an answer that is not JSON: b'hello"):
        worker.ask("time")
    with script('input(); print(\'{"skipped": "not here"}\')') as worker, pytest.raises(SkippedError, match="not here"):
        worker.ask("time")


def test_a_real_worker_reports_errors_and_goes_when_its_parent_is_gone():
    with Worker(environment=tiny.environment(), timeout=60.0, command=COMMAND) as worker:
        with pytest.raises(WorkerError, match="AttributeError"):
            worker.ask("nonsense")
        worker._process.stdin.close()
        assert worker._process.wait(60) == 0


def test_interrupting_the_parent_ends_a_worker_that_is_busy(tmp_path):
    child = "import os, time; print(os.getpid(), flush=True, file=open('pid', 'w')); time.sleep(300)"
    code = f"""
import os, signal, sys
from drsn_jax.benchmark.processes import Worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
with Worker(environment=os.environ, timeout=300, command=(sys.executable, "-c", {child!r})) as worker:
    open("inside", "w").close()
    worker.ask("time")
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=tiny.environment(), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "inside").exists() or not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGINT)
    parent.wait(60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_rows_by_name():
    assert [row.name for row in choose_rows(None, accelerator=False)] == [name for name in ROWS if name != "best-batch"]
    assert [row.name for row in choose_rows(None, accelerator=True)] == list(ROWS)
    assert [row.name for row in choose_rows("inference, training-step", accelerator=False)] == ["training-step", "inference"]
    with pytest.raises(InputError, match=r"'trainingstep' \(did you mean training-step\?\); use training-step, best-batch, "):
        choose_rows("trainingstep", accelerator=False)
    with pytest.raises(InputError, match="best-batch needs an accelerator"):
        choose_rows("best-batch", accelerator=False)


def test_back_ends_by_name_and_by_what_is_installed():
    def having(*modules):
        return {"installed_fn": lambda module: module in modules}

    assert choose_keras(None, **having()) == ([], [])
    subjects, notes = choose_keras("keras", **having("keras", "jax", "tensorflow"))
    assert subjects == ["keras-tensorflow", "keras-jax"]
    assert len(notes) == 1
    assert "torch is not installed" in notes[0]
    assert choose_keras("keras-jax,keras-torch", **having("keras", "jax", "torch")) == (["keras-jax", "keras-torch"], [])
    with pytest.raises(InputError, match=r"keras-torch: torch is not installed: pip install torch"):
        choose_keras("keras-torch", **having("keras", "jax"))
    with pytest.raises(InputError, match=r"pip install 'drsn-jax\[bench\]'"):
        choose_keras("keras", **having("jax"))
    with pytest.raises(InputError, match=r"'pytorch' is not known.*use keras, keras-tensorflow, keras-jax, keras-torch"):
        choose_keras("pytorch", **having("keras"))


def test_who_is_timed_in_a_row():
    in_bfloat16 = [f"{name}-bfloat16" for name in KERAS]
    assert choose_subjects(STEP, keras=list(KERAS), bfloat16=True) == [OURS, *KERAS, OURS_BFLOAT16, *in_bfloat16]
    assert choose_subjects(STEP, keras=list(KERAS), bfloat16=False) == [OURS, *KERAS]
    assert choose_subjects(ROWS["input-pipeline"], keras=list(KERAS), bfloat16=True) == [OURS, LOADER]
    assert choose_subjects(ROWS["input-pipeline"], keras=[], bfloat16=True) == [OURS]


def test_each_process_has_its_back_end_and_compiles(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    for subject, module in KERAS.items():
        environment = rows.worker_environment(subject)
        assert environment["KERAS_BACKEND"] == module
        assert environment["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert rows.worker_environment(OURS)["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert "JAX_PLATFORMS" not in rows.worker_environment("keras-jax")
    assert "JAX_PLATFORMS" not in rows.worker_environment("keras-jax-bfloat16")
    assert rows.worker_environment("keras-jax-bfloat16")["KERAS_BACKEND"] == "jax"
    assert rows.worker_environment("keras-tensorflow")["JAX_PLATFORMS"] == "cpu"  # it must not take the accelerator's memory


def test_the_best_batch_is_that_of_most_images_a_second_before_memory_is_full():
    tried = []

    def seconds_of(batch):
        tried.append(batch)
        if batch > 16:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return {1: 1.0, 2: 1.2, 4: 1.5, 8: 2.0, 16: 5.0}[batch]

    assert find_best_batch(seconds_of) == 8  # 4 images a second; 16 fit, and are slower
    assert tried == [1, 2, 4, 8, 16, 32]
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        find_best_batch(seconds_of, first=32)
    with pytest.raises(ZeroDivisionError):
        find_best_batch(lambda batch: 1 / 0 if batch > 1 else 1.0)  # a bug is not taken for full memory


def test_memory_of_this_process():
    """Of a fresh one: in this one the peak may lie far above what is held now."""
    code = "from drsn_jax.benchmark.prepared import process_peak_bytes as peak"
    code += "; before = peak(); block = b'x' * 200_000_000; print(before, peak())"
    done = subprocess.run([sys.executable, "-c", code], env=tiny.environment(), capture_output=True, text=True, timeout=60, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 5_000_000
    assert 150_000_000 < after - before < 250_000_000


def test_pairs_and_their_two_readers(tmp_path, rng):
    text = write_pairs(tmp_path, pairs=2, size=(96, 64))
    assert text.startswith("2 pairs of 96x64 PNG")
    config = load_config("paper", ["--config.crop_size=32"])
    theirs = prepare(ROWS["input-pipeline"], config=config, folder=str(tmp_path))
    blurred, sharp = theirs.call()
    assert blurred.shape == sharp.shape == (2, 32, 32, 3)
    assert -1 <= blurred.min() < blurred.max() <= 1
    assert theirs.images == 2
    pytest.importorskip("tensorflow")
    ours = prepare_ours(str(tmp_path), config=config)
    ours.call()
    assert ours.images == 4


DOCUMENT = {
    "machine": {"cpu": "A processor", "cores": 2, "platform": "cpu", "device": "cpu"},
    "versions": {"jax": "0.10"},
    "date": "today",
    "config": {"batch_size": 1},
    "subjects": ["ours", "keras-tensorflow", "keras-jax"],
    "notes": ["keras-torch is not measured: torch is not installed."],
}


def measured_document():
    log = []
    workers = {
        OURS: FakeWorker(OURS, log, seconds=(2.8, 2.81, 3.0), macs=10**11, ceiling=2.5e11),
        "keras-tensorflow": FakeWorker("keras-tensorflow", log, seconds=5.62),
        "keras-jax": FakeWorker("keras-jax", log, fails={"prepare": WorkerError("was killed by signal 9")}),
    }
    row = {"name": STEP.name, "title": "training step 256x256", **measure(workers)[0]}
    return {**DOCUMENT, "rows": [row], "notes": DOCUMENT["notes"] + bench._explain([row])}


def test_the_table():
    text = format_bench(measured_document())
    assert max(map(len, text.splitlines())) <= 140
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "training step 256x256 float32 2.81 s (2.8-3) 5.62 s (5.62-5.62) failed 2.00" in lines
    assert "training step 256x256 ours-float32 3 9 s 6.19 s 0.356 1,000 MB 100 28.5%" in lines
    assert "> 1: ours faster" in lines
    assert "- training step 256x256, keras-jax: failed: was killed by signal 9" in lines
    assert "- keras-torch is not measured: torch is not installed." in lines


def test_the_table_has_a_line_for_each_precision():
    workers = {OURS: FakeWorker(OURS, [], seconds=3.0), "keras-jax": FakeWorker("keras-jax", [], seconds=6.0)}
    workers |= {OURS_BFLOAT16: FakeWorker(OURS_BFLOAT16, [], seconds=2.0)}
    workers |= {"keras-jax-bfloat16": FakeWorker("keras-jax-bfloat16", [], seconds=1.0)}
    row = {"name": STEP.name, "title": "training step", **measure(workers)[0]}
    lines = [" ".join(line.split()) for line in format_bench({**DOCUMENT, "subjects": ["ours", "keras-jax"], "rows": [row]}).splitlines()]
    first = lines.index("training step float32 3 s (3-3) 6 s (6-6) 2.00")
    assert lines[first + 1] == "bfloat16 2 s (2-2) 1 s (1-1) 0.50"


def test_the_table_of_ours_alone_has_no_ratio():
    row = {"name": STEP.name, "title": "training step", **measure({OURS: FakeWorker(OURS, [])})[0]}
    text = format_bench({**DOCUMENT, "subjects": ["ours"], "rows": [row], "notes": []})
    assert "Keras" not in text


def test_seconds_in_words():
    assert [format_seconds(x) for x in (123.4, 2.806, 0.0234)] == ["123 s", "2.81 s", "23.4 ms"]


@pytest.mark.parametrize(("failing", "code"), [(None, 0), ("keras-jax", 0), (OURS, 1)])
def test_only_a_failure_of_ours_is_one(failing, code, monkeypatch, tmp_path, capsys):
    log = []
    fails = {"time": WorkerError("died")}
    workers = {name: FakeWorker(name, log, fails=fails if name == failing else None) for name in (OURS, "keras-jax")}
    document = {**DOCUMENT, "subjects": ["ours", "keras-jax"], "rows": [{"name": STEP.name, "title": "step", **measure(workers)[0]}]}
    monkeypatch.setattr(bench, "run_bench", lambda config, **options: document)
    output = tmp_path / "new" / "bench.json"
    assert main(["bench", f"--output={output}"]) == code
    assert json.loads(output.read_text()) == document
    out, err = capsys.readouterr()
    assert out.endswith(f"JSON: {output}\n")
    assert err == ("drsn-jax: failed: step, ours-float32: died\n" if code else "")


def test_an_interrupted_run_leaves_the_file_of_the_last_one(monkeypatch, tmp_path, capsys):
    def interrupt(config, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run_bench", interrupt)
    output = tmp_path / "bench.json"
    output.write_text("kept")
    assert main(["bench", f"--output={output}", "--overwrite"]) == 130
    assert output.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows=trainingstep"], "did you mean training-step?"),
        (["--against=pytorch"], "use keras, keras-tensorflow"),
        (["--batch-size=0"], "--batch-size=0 is out of range; use more than 0"),
        (["--seconds=nan"], "--seconds=nan is out of range"),
        (["--output=there.json"], "there.json already exists; choose another --output, or --overwrite"),
        (["--output=folder", "--overwrite"], "folder already exists; choose another --output."),
        (["--profile=there.json"], "--profile=there.json is a file; give a folder"),
        (["--config=nope"], "There is no configuration 'nope'"),
        (["--config.nope=1"], "Unknown configuration key 'nope'"),
    ],
)
def test_mistakes_are_found_before_anything_is_started(arguments, words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(bench, "Worker", lambda **options: pytest.fail("a worker was started"))
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err
