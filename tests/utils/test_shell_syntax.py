"""Every shell script of the repository: its syntax, and that it says what it is."""

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SKIPPED = {".git", ".venv", "exp", "dump", "downloads", "node_modules"}


def scripts():
    found = [REPO / ".ci/run"]
    for folder, names, files in os.walk(REPO):
        names[:] = [n for n in names if n not in SKIPPED and not n.startswith(".venv")]
        found += [Path(folder) / f for f in files if f.endswith(".sh")]
    return sorted(found)


@pytest.mark.parametrize("path", scripts(), ids=lambda p: str(p.relative_to(REPO)))
def test_syntax_and_head(path):
    result = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash" or lines[0].startswith("# "), (
        "starts with #!/usr/bin/env bash or a comment"
    )
    assert lines[1].startswith("#"), "a comment block that says what the script is for comes first"


@pytest.mark.parametrize(
    "name",
    ["tools/install.sh", "tools/install_espnet.sh", "utils/run.sh", "utils/slurm.sh", "utils/sge.sh"],
)
def test_help(name, tmp_path):
    result = subprocess.run([str(REPO / name), "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{name}: ")
    assert "Usage: " in result.stdout


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("validate_data_dir", "validate"),
        ("fix_data_dir", "fix"),
        ("subset_data_dir", "subset"),
        ("split_scp", "split"),
    ],
)
def test_wrappers_pass_everything_on(tmp_path, name, command):
    fake = tmp_path / "python"
    fake.write_text("#!/usr/bin/env bash\nprintf '[%s]' \"$@\"\nexit 5\n")
    fake.chmod(0o755)
    result = subprocess.run(
        [str(REPO / f"utils/{name}.sh"), "--x", "a b", "$HOME"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": str(fake)},
    )
    assert result.returncode == 5
    assert result.stdout == f"[{REPO}/utils/data_dir.py][{command}][--x][a b][$HOME]"


def test_makefile_help_lists_the_targets():
    result = subprocess.run(["make", "-C", str(REPO), "-s"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for target in ("install", "demo", "test", "test-all", "lint", "format", "bench", "clean", "distclean"):
        assert f"\n  {target} " in result.stdout
