"""The README's quickstart, run as it stands there: real simulator, real gateway, real curl. Only the ports differ."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coatcheck.drill.ports import free_port

README = Path(__file__).parents[2] / "README.md"
# A block to run, and what it prints when that is documented.
_RUN = re.compile(r"<!-- run -->\n```sh\n(.*?)```\n(?:<!-- answer -->\n```\w*\n(.*?)```\n)?", re.DOTALL)
_DEADLINE_S, _GRACE_S = 90, 20


@dataclass(frozen=True, slots=True)
class Step:
    """One block of the quickstart. `answer` is what it prints, where `...` stands for anything."""

    commands: str
    answer: str | None

    def is_answered_by(self, printed: str) -> bool:
        """Whether what was printed is what is documented; the README may break lines where it likes."""
        if self.answer is None:
            return True
        parts = [re.escape(re.sub(r"\s", "", part)) for part in self.answer.split("...")]
        return re.fullmatch(".*".join(parts), re.sub(r"\s", "", printed), re.DOTALL) is not None


def steps_of(text: str) -> list[Step]:
    return [Step(commands, answer or None) for commands, answer in _RUN.findall(text)]


@pytest.fixture
def work_dir() -> Iterator[Path]:
    # Not pytest's tmp_path: as root, PostgreSQL runs as another user, who must be able to reach its files.
    with tempfile.TemporaryDirectory(prefix="coatcheck-readme-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def run_script(script: str, work_dir: Path, environ: dict[str, str]) -> tuple[str, str]:
    """Run a script in bash; returns what it printed on both outputs. Whatever it left running is ended."""
    with subprocess.Popen(
        ["bash", "-e"],  # noqa: S607 - the reader's own shell
        cwd=work_dir,
        env=environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as shell:
        try:
            return shell.communicate("trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT\n" + script, timeout=_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGTERM)
            printed, complaints = shell.communicate(timeout=_GRACE_S)
            pytest.fail(f"not done after {_DEADLINE_S} s: {printed}\n{complaints}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)


def test_an_answer_is_compared_to_its_end() -> None:
    step = Step("", '{"a": 1, "b": "...", ... "z": 2}')
    assert step.is_answered_by('{"a":1,"b":"x y","c":3,"z":2}')
    assert not step.is_answered_by('{"a":1,"b":"x","c":3,"z":3}')
    assert not step.is_answered_by('{"a":1,"b":"x","z":2} and more')
    assert not step.is_answered_by("")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the quickstart is written with curl")
def test_the_quickstart_answers_as_documented(work_dir: Path) -> None:
    gateway_port, simulator_port = free_port(), free_port()
    text = README.read_text("utf-8").replace("8080", str(gateway_port)).replace("8090", str(simulator_port))
    steps = steps_of(text)
    assert len(steps) == text.count("<!-- run -->") > 5
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COATCHECK_")}
    environ.pop("DATABASE_URL", None)
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    environ["COATCHECK_SIMULATOR_URL"] = f"http://127.0.0.1:{simulator_port}"

    script = "".join(f"{step.commands}\nprintf '\\n@@ %d @@\\n' {place}\n" for place, step in enumerate(steps))
    printed, complaints = run_script(script, work_dir, environ)

    answers = re.split(r"\n@@ \d+ @@\n", printed)[:-1]
    assert len(answers) == len(steps), f"stopped after {len(answers)} of {len(steps)} blocks: {printed}\n{complaints}"
    for step, answer in zip(steps, answers, strict=True):
        assert step.is_answered_by(answer), f"{step.commands}\nprinted\n{answer}\nnot\n{step.answer}\n{complaints}"
    assert "Traceback" not in complaints
