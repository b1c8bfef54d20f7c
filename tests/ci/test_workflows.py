"""What the workflows run is a job of scripts/ci.sh, and what is run here is what they run."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
STEP = re.compile(r'bash scripts/ci\.sh (?P<job>[a-z]+)(?P<arguments>( (\$\{\{ matrix\.[a-z]+ \}\}|"\$[A-Z_]+"))*)')
PROJECT = (ROOT / "pyproject.toml").read_text()
VERSION = re.search(r'^version = "(.*)"', PROJECT, re.MULTILINE)[1]


def ci(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "scripts/ci.sh", *words], cwd=ROOT, capture_output=True, text=True)


def jobs() -> set[str]:
    """The jobs that the script names when it is asked for none."""
    return set(re.findall(r"^  ([a-z]+) ", ci().stderr, re.MULTILINE))


def steps() -> list[tuple[str, dict]]:
    """Every step of every workflow, with the strategy's values of its job."""
    loaded = [yaml.safe_load(path.read_text()) for path in WORKFLOWS]
    return [
        (step, job.get("strategy", {}).get("matrix", {}))
        for workflow in loaded
        for job in workflow["jobs"].values()
        for step in job["steps"]
    ]


def test_script_names_its_jobs():
    assert ci().returncode == ci("other").returncode == 2
    listed = re.search(r"^    ((?:[a-z]+ \| )+[a-z]+)\) ", (ROOT / "scripts/ci.sh").read_text(), re.MULTILINE)
    assert jobs() == set(listed[1].split(" | ")) == {"style", "tests", "versions", "build", "docs", "tag"}


def test_every_command_is_a_job_of_the_script():
    found = set()
    for step, matrix in steps():
        if "run" in step:
            match = STEP.fullmatch(step["run"])
            assert match, step["run"]
            assert set(re.findall(r"matrix\.([a-z]+)", match["arguments"])) <= set(matrix)
            found.add(match["job"])
    assert found == jobs()


def test_every_action_is_from_a_known_publisher_at_a_version():
    known = re.compile(r"actions/[a-z-]+@v\d+|pypa/gh-action-pypi-publish@release/v1")
    used = [step["uses"] for step, _ in steps() if "uses" in step]
    assert used and [action for action in used if not known.fullmatch(action)] == []


def test_python_versions_are_those_of_the_package():
    stated = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT))
    tested = [set(m["python"]) for step, m in steps() if step.get("run") == "bash scripts/ci.sh tests"]
    assert tested == [stated]
    oldest = min(stated, key=lambda version: int(version.split(".")[1]))
    assert f'requires-python = ">={oldest}"' in PROJECT


def test_version_sets_are_those_of_the_script():
    known = re.findall(r"^        ([a-z-]+)\) (?:layer|whole)", (ROOT / "scripts/test_versions.sh").read_text(), re.M)
    assert [m["set"] for _, m in steps() if "set" in m][0] == known


def test_only_jobs_that_publish_may_write():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}, path.name
        writing = {name for name, job in workflow["jobs"].items() if "permissions" in job}
        assert writing <= {"deploy", "publish"}, path.name


@pytest.mark.parametrize("folder", [".github", "requirements", "scripts"])
def test_no_package_index_and_no_machine_is_named(folder):
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"pypi\.org|pytorch\.org|index-url|/root/|/home/", path.read_text()), path


@pytest.mark.parametrize(
    ("tag", "said"), [(f"v{VERSION}", "CHANGELOG.md has no dated heading"), ("v9.9.9", "must be the same")]
)
def test_tag_must_name_a_dated_version(tag, said):
    done, changelog = ci("tag", tag), (ROOT / "CHANGELOG.md").read_text()
    released = f"## {VERSION} (unreleased)" not in changelog
    assert done.returncode == (0 if released and tag == f"v{VERSION}" else 1)
    assert done.returncode == 0 or said in done.stderr


def test_ci_here_runs_every_job_but_that_of_a_tag():
    here = (ROOT / ".ci/run").read_text() + (ROOT / "scripts/test.sh").read_text()
    assert set(re.findall(r"scripts/ci\.sh ([a-z]+)", here)) == jobs() - {"tag"}


def test_every_file_reads_on_the_oldest_python():
    """A grammar that is newer is refused here; names of newer standard libraries are for the tests on that release."""
    oldest = tuple(map(int, re.search(r'^requires-python = ">=(\d+)\.(\d+)"', PROJECT, re.MULTILINE).groups()))
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split():
        ast.parse((ROOT / name).read_text(encoding="utf-8"), name, feature_version=oldest)


def test_folders_of_data_are_named_for_setuptools():
    """Python could import them, so setuptools warns when they are not among the packages."""
    folders = {path.parent for top in ("llava", "aot", "lmms_eval_tasks") for path in (ROOT / top).glob("**/*.yaml")}
    plain = [folder.relative_to(ROOT) for folder in folders if not (folder / "__init__.py").is_file()]
    named = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert [folder for folder in plain if f'{".".join(folder.parts)}"' not in named] == []
