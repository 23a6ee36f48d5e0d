import subprocess
from pathlib import Path

from cos2p_experiments.provenance import commit_of


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def checkout(folder: Path) -> str:
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return git(folder, "rev-parse", "HEAD")


def test_a_checkout_is_named_by_its_commit(tmp_path: Path) -> None:
    assert checkout(tmp_path)[:12] == commit_of(tmp_path)


def test_changed_sources_are_marked(tmp_path: Path) -> None:
    found = checkout(tmp_path)
    (tmp_path / "a.py").write_text("2")

    assert f"{found[:12]}+" == commit_of(tmp_path)


def test_new_files_are_no_change_of_the_sources(tmp_path: Path) -> None:
    found = checkout(tmp_path)
    (tmp_path / "runs.txt").write_text("2")

    assert found[:12] == commit_of(tmp_path)


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert "unknown" == commit_of(tmp_path)
