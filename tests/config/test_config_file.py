import pytest

from xkd_jax.config import config_file


@pytest.mark.parametrize("name", ["configs/k400.py", "configs/k400", "k400.py", "k400"])
def test_file_of_working_directory_comes_before_that_of_package(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.find(name) == config_file.FOLDER / "k400.py"
    assert config_file.is_of_package(config_file.find(name))
    own = tmp_path / "configs/k400.py"
    own.parent.mkdir()
    own.touch()
    assert config_file.find(name).resolve() == own
    assert not config_file.is_of_package(config_file.find(name))


def test_files_of_checkout_are_not_called_the_packages(monkeypatch):
    monkeypatch.chdir(config_file.FOLDER.parent)
    assert str(config_file.find("configs/eval/knn.py")) == "configs/eval/knn.py"
    assert not config_file.is_of_package(config_file.find("configs/eval/knn.py"))


@pytest.mark.parametrize("name", ["", ".", "/", "configs", "eval", "..", "k400.txt", "/k400.py"])
def test_other_names_are_not_config_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_file.find(name) is None
    assert "does not exist: the folder configs has audioset.py, " in str(config_file.missing(name))


def test_missing_file_in_other_folder_has_nearest_name_of_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = str(config_file.missing("eval/knm"))
    assert "The config file eval/knm does not exist: the folder configs/eval has " in error
    assert error.endswith("Did you mean configs/eval/knn.py?")


def test_folder_with_own_configs_names_those(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def get_config():\n    pass\n")
    assert "does not exist: the folder . has own.py. Did you mean own.py?" in str(
        config_file.missing("onw.py")
    )
