"""The commands that make the environment and run the tests, with stand-ins for Python, make and pytest's report."""
import os
import shutil
import subprocess

import pytest
from conftest import ROOT, clean_environment, run_process

TOOLS = ("bash", "dirname", "rm", "cat", "mkdir", "touch", "grep", "tr", "awk", "env", "sed")


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path):
    "A copy of the scripts, and a PATH that holds nothing but the usual tools."
    repository, programs = tmp_path / "repository", tmp_path / "bin"
    shutil.copytree(ROOT / ".ci", repository / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))

    def run(*command, **more):
        environment = clean_environment(**more) | {"PATH": str(programs)}
        environment.pop("PYTHON", None)
        return subprocess.run(command, cwd=repository, env=environment | {k: str(v) for k, v in more.items()}, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)

    run.repository, run.programs = repository, programs
    return run


OLD = 'case "$2" in *version_info*) exit 1;; esac\n'
WITHOUT_VENV = 'case "$2" in *ensurepip*) echo "No module named ensurepip" >&2; exit 1;; esac\n'
WORKING = 'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp -f "$0" "$3/bin/python" 2>/dev/null || cat "$0" > "$3/bin/python"; /bin/chmod +x "$3/bin/python"; touch "$3/pyvenv.cfg"; fi\nif [ "$1" = "--version" ]; then echo "Python 3.12.1"; fi\necho "$0 $*" >> "$LOG"\n'


def test_no_python_is_one_clear_sentence(bare):
    script(bare.programs / "python3", OLD)
    result = bare(".ci/environment", ".venv")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "No Python of version 3.11 or later was found" in result.stderr


def test_a_missing_venv_module_says_what_to_install(bare):
    script(bare.programs / "python3", WITHOUT_VENV)
    result = bare(".ci/environment", ".venv")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "apt install python3-venv" in result.stderr and "python3" in result.stderr


def test_the_first_python_that_can_is_taken(bare, tmp_path):
    script(bare.programs / "python3.13", "echo 'python3.13: command not found' >&2; exit 127\n")
    script(bare.programs / "python3.12", WITHOUT_VENV)
    script(bare.programs / "python3.11", WORKING)
    result = bare(".ci/environment", ".venv", LOG=tmp_path / "log")
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    assert any("python3.11 -m venv .venv" in line for line in lines)
    assert lines[-1].endswith(".venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --editable .[dev]")


def test_an_environment_that_is_there_is_kept(bare, tmp_path):
    script(bare.repository / ".venv" / "bin" / "python", WORKING)
    assert bare(".ci/environment", ".venv", LOG=tmp_path / "log").returncode == 0
    assert "venv .venv" not in (tmp_path / "log").read_text()


def test_a_folder_that_is_no_environment_is_not_removed(bare, tmp_path):
    script(bare.programs / "python3.11", WORKING)
    (bare.repository / ".venv").mkdir()
    (bare.repository / ".venv" / "precious").write_text("")
    result = bare(".ci/environment", ".venv", LOG=tmp_path / "log")
    assert result.returncode == 1 and "no virtual environment" in result.stderr
    assert (bare.repository / ".venv" / "precious").exists()


REPORT = '<?xml version="1.0"?><testsuites name="pytest tests"><testsuite name="pytest" errors="{errors}" failures="{failures}" skipped="{skipped}" tests="{tests}" time="1.0"></testsuite></testsuites>'


def ci(bare, report, status):
    written = f"mkdir -p build; cat > build/junit.xml <<'END'\n{report}\nEND\n" if report else ""
    script(bare.programs / "make", f'echo "$*" > arguments\n{written}exit {status}\n')
    return bare(".ci/run", CI="true")


def test_ci_ends_with_the_counts(bare):
    result = ci(bare, REPORT.format(errors=0, failures=0, skipped=2, tests=12), 0)
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "10 passed, 0 failed"
    assert (bare.repository / "arguments").read_text() == "test REPORT=build/junit.xml\n"


def test_ci_counts_failures_and_errors(bare):
    result = ci(bare, REPORT.format(errors=1, failures=2, skipped=2, tests=12), 2)
    assert result.returncode == 2 and result.stdout.splitlines()[-1] == "7 passed, 3 failed"


@pytest.mark.parametrize("report", ["", REPORT.format(errors=0, failures=0, skipped=0, tests=3)])
def test_ci_fails_when_make_fails(bare, report):
    result = ci(bare, report, 2)
    assert result.returncode == 2 and result.stdout.splitlines()[-1].endswith("1 failed")


def test_ci_fails_when_nothing_ran(bare):
    assert ci(bare, "", 0).returncode != 0


def test_ci_does_not_read_an_old_report(bare):
    old = bare.repository / "build" / "junit.xml"
    old.parent.mkdir()
    old.write_text(REPORT.format(errors=0, failures=0, skipped=0, tests=3))
    assert ci(bare, "", 2).stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_make_lists_its_commands():
    result = run_process("make", "--no-print-directory", "help")
    assert result.returncode == 0
    named = {line.split()[1] for line in result.stdout.splitlines() if line.startswith("make ")}
    assert {"demo", "test", "test-slow", "browser", "bench", "docs-check", "clean", "readme"} <= named


def test_every_target_makes_the_environment_first():
    for target in ("demo", "test", "test-slow", "browser", "bench", "docs-check", "readme"):
        result = run_process("make", "--no-print-directory", "--dry-run", "--always-make", "VENV=elsewhere", target)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[0] == ".ci/environment elsewhere" and "elsewhere/bin/" in result.stdout.splitlines()[-1]


def test_scripts_can_be_run():
    assert all(os.access(ROOT / ".ci" / name, os.X_OK) for name in ("run", "environment", "chromium"))


# ---------------------------------------------------------------- the browser
@pytest.fixture
def machine(bare):
    "A machine without Chromium: more of the usual tools, root, and no time lost in waiting."
    for tool in ("mktemp", "timeout", "tail"):
        (bare.programs / tool).symlink_to(shutil.which(tool))
    script(bare.programs / "sleep", "")
    script(bare.programs / "id", "echo 0\n")
    return bare


APT = 'echo "$*" >> "$LOG"\ncase "$*" in *install*) {installing};; esac\n'


def test_a_chromium_that_is_there_is_named(machine):
    found = script(machine.programs / "chromium", "")
    assert machine(".ci/chromium").stdout == f"{found}\n"
    elsewhere = script(machine.repository / "my-chromium", "")
    assert machine(".ci/chromium", CHROMIUM=elsewhere).stdout == f"{elsewhere}\n"


def test_chromium_is_installed_by_apt(machine, tmp_path):
    making = f"echo > {machine.programs}/chromium; /bin/chmod +x {machine.programs}/chromium"
    script(machine.programs / "apt-get", APT.format(installing=making))
    result = machine(".ci/chromium", LOG=tmp_path / "log")
    assert result.returncode == 0 and result.stdout == f"{machine.programs}/chromium\n", result.stderr
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["update", "fonts-dejavu-core"]


def test_apt_is_tried_twice_and_its_last_word_is_said(machine, tmp_path):
    script(machine.programs / "apt-get", APT.format(installing="echo 'E: no route to host' >&2; exit 100"))
    result = machine(".ci/chromium", LOG=tmp_path / "log")
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "could not install it (E: no route to host), so JupyterLab is not driven in a browser" in result.stderr
    assert (tmp_path / "log").read_text().count(" install ") == 2


def test_without_apt_or_root_one_sentence_says_what_to_do(machine):
    result = machine(".ci/chromium")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "there is no apt-get" in result.stderr
    script(machine.programs / "apt-get", "")
    script(machine.programs / "id", "echo 1000\n")
    result = machine(".ci/chromium")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "needs root" in result.stderr
    assert "is not a program" in machine(".ci/chromium", CHROMIUM="nowhere").stderr
