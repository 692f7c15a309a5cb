"""The command that measures: what it cannot measure is said before anything is prepared."""

from benchmarks.run import main


def test_an_unknown_table_is_a_user_error_that_names_the_nearest(tmp_path, capsys):
    assert main(["--only", "padding,lodaing", "--recipe", str(tmp_path), "--out", str(tmp_path / "B.md")]) == 2
    assert "benchmarks.run: error: there is no table 'lodaing': did you mean 'loading'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
