"""tools/install.sh without installing: its plan, its stamp and its errors. And tools/check_env.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the installer reads, so that a test may change it."""
    root = tmp_path / "repo with blank"
    for name in ("setup.py", "tools/install.sh", "tools/constraints.txt", "utils/parse_options.sh"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, root / name)
    return root


def install(root, *args, **environment):
    """Run the installer with a pip that has no configuration, but for what the test sets."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_")) and k != "SSL_CERT_FILE"}
    return subprocess.run(
        [str(root / "tools/install.sh"), *args],
        capture_output=True,
        text=True,
        env={**kept, "PIP_CONFIG_FILE": os.devnull, **environment},
        timeout=60,
    )


def plan(root, *args, **environment):
    result = install(root, "--python", sys.executable, "--dry-run", *args, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def stamp_of(text):
    return text.split("plan: stamp ")[1].splitlines()[0].split()


def torch_pin():
    lines = (REPO / "tools/constraints.txt").read_text().splitlines()
    return next(line.removeprefix("torch==") for line in lines if line.startswith("torch=="))


@pytest.fixture
def no_gpu(tmp_path):
    """PATH on which nvidia-smi fails, as on a machine without a driver."""
    return fake_nvidia(tmp_path, 9)


def fake_nvidia(tmp_path, status):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\nexit {status}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_plan_on_a_cpu(checkout, no_gpu):
    text = plan(checkout, "--extras", "dev,label", PATH=no_gpu)
    assert f"torch {torch_pin()}, NVIDIA driver: false, ways: cpu-index plain" in text
    assert "install -e .[dev,label] with tools/constraints.txt" in text
    assert not (checkout / ".venv").exists()


def test_plan_on_a_gpu(checkout, tmp_path):
    assert "NVIDIA driver: true, ways: plain\n" in plan(checkout, PATH=fake_nvidia(tmp_path, 0))


def test_a_wheel_folder_comes_first(checkout, tmp_path, no_gpu):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (wheels / f"torch-{torch_pin()}+cpu-{tag}-{tag}-linux_x86_64.whl").touch()
    text = plan(checkout, PATH=no_gpu, PIP_FIND_LINKS=f"{wheels} {tmp_path / 'gone'}")
    assert "ways: folder cpu-index plain" in text
    assert f"UV_FIND_LINKS={wheels}\n" in text
    assert f"not passed on to uv: {tmp_path / 'gone'} (it does not exist)" in text


def test_a_wheel_of_another_python_does_not_count(checkout, tmp_path, no_gpu):
    (tmp_path / f"torch-{torch_pin()}+cpu-cp39-cp39-linux_x86_64.whl").touch()
    assert "ways: cpu-index plain" in plan(checkout, PATH=no_gpu, PIP_FIND_LINKS=str(tmp_path))


def test_a_cpu_wheel_is_not_for_a_gpu(checkout, tmp_path):
    path = fake_nvidia(tmp_path, 0)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (tmp_path / f"torch-{torch_pin()}+cpu-{tag}-{tag}-linux_x86_64.whl").touch()
    text = plan(checkout, PATH=path, PIP_FIND_LINKS=str(tmp_path))
    assert "its torch is a CPU build" in text
    assert "UV_FIND_LINKS=" not in text


def test_indexes_of_pip_reach_uv(checkout, tmp_path, no_gpu):
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://me:secret@mirror.example/simple\n"
        "extra-index-url =\n  https://two.example/simple\n  ftp://three.example/simple\n"
        "[install]\ntrusted-host = two.example\n"
    )
    text = plan(checkout, PATH=no_gpu, PIP_CONFIG_FILE=str(settings))
    assert "UV_DEFAULT_INDEX=https://***@mirror.example/simple" in text
    assert "UV_INDEX=https://two.example/simple\n" in text
    assert "not passed on to uv: ftp://three.example/simple" in text
    assert "UV_INSECURE_HOST=two.example" in text
    assert "ways: plain\n" in text


def test_a_uv_variable_of_the_user_wins(checkout, no_gpu):
    text = plan(checkout, PATH=no_gpu, PIP_INDEX_URL="https://a.example/simple", UV_DEFAULT_INDEX="https://b.example")
    assert "UV_DEFAULT_INDEX=" not in text


def test_stamp_depends_on_its_inputs(checkout, no_gpu):
    first, extras = stamp_of(plan(checkout, PATH=no_gpu))
    assert extras == ","
    assert stamp_of(plan(checkout, "--extras", "dev", PATH=no_gpu)) == [first, ",dev,"]
    for name in ("tools/constraints.txt", "setup.py"):
        with (checkout / name).open("a") as out:
            out.write("# changed\n")
        again, _ = stamp_of(plan(checkout, PATH=no_gpu))
        assert again != first
        first = again


def test_stamp_saves_the_second_run(checkout, no_gpu):
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    stamp = stamp_of(plan(checkout, "--extras", "label,dev", PATH=no_gpu))
    (venv / ".mooer_install").write_text("\n".join(stamp) + "\n")
    for extras in ("", "dev", "dev,label"):
        result = install(checkout, "--extras", extras, PATH=no_gpu)
        assert result.returncode == 0, result.stderr
        assert "nothing to do" in result.stdout
    assert stamp_of(plan(checkout, "--extras", "deepspeed", PATH=no_gpu))[1] == ",label,dev,deepspeed,"
    assert "install -e .[label,dev]" in plan(checkout, "--force", PATH=no_gpu)
    with (checkout / "setup.py").open("a") as out:
        out.write("# changed\n")
    assert stamp_of(plan(checkout, "--extras", "dev", PATH=no_gpu))[1] == ",dev,"


def fake_python(folder, name, version, modules_there):
    """A stand-in that tells a version, and whose modules venv and ensurepip are there or not."""
    program = folder / name
    program.write_text(
        '#!/bin/sh\ncase "$2" in\n'
        f"  *python_version*) echo {version} ;;\n"
        f"  *ensurepip*) exit {0 if modules_there else 1} ;;\n"
        "esac\n"
    )
    program.chmod(0o755)


@pytest.fixture
def bare_path(tmp_path):
    """PATH without any Python: only the few programs that the script itself needs."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "basename", "sed", "grep", "uname"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def test_no_python_that_fits(checkout, bare_path):
    fake_python(bare_path, "python3", "3.10.4", True)
    result = install(checkout, PATH=str(bare_path))
    assert result.returncode == 1
    assert "no Python 3.11 or 3.12 found" in result.stderr
    assert "python3 is 3.10.4" in result.stderr


def test_ensurepip_missing(checkout, bare_path):
    fake_python(bare_path, "python3", "3.11.2", False)
    result = install(checkout, PATH=str(bare_path))
    assert result.returncode == 1
    assert "ensurepip is missing" in result.stderr
    assert "apt-get install python3-venv" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--extras", "tests"], "no extra 'tests' in setup.py"),
        (["--extras", "dev; rm"], "--extras takes names separated by commas"),
        (["--python", "no-such-python"], "--python no-such-python does not run"),
        (["stray"], "unexpected argument 'stray'"),
        (["--extra", "dev"], "Did you mean --extras?"),
    ],
)
def test_wrong_calls(checkout, args, message):
    result = install(checkout, "--dry-run", *args)
    assert result.returncode != 0
    assert message in result.stderr


def test_constraints_hold_no_local_builds_and_no_torchaudio():
    lines = [x for x in (REPO / "tools/constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    assert not any(line.startswith(("torchaudio", "uv==", "mooer")) for line in lines)


def test_check_env_reports_a_broken_torchaudio(tmp_path):
    (tmp_path / "torchaudio.py").write_text("raise OSError('undefined symbol')\n")
    code = (
        "import runpy, sys;"
        f"sys.path.insert(0, {str(tmp_path)!r});"
        f"env = runpy.run_path({str(REPO / 'tools/check_env.py')!r});"
        "report = env['Report'](); env['check_torchaudio'](report); env['check_audio'](report);"
        "env['check_python'](report); sys.exit(report.problems)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1, result.stderr
    assert "undefined symbol" in result.stdout
    assert "pip uninstall torchaudio" in result.stdout
    assert "PyAV, no ffmpeg program needed" in result.stdout
