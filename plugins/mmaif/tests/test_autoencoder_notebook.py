from pathlib import Path

import nbformat
import papermill
import pytest


@pytest.mark.notebook
def test_the_notebook_makes_weights_and_shows_what_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONKIT_DATA", str(tmp_path))  # photographs would take half a minute
    notebook = Path(__file__).resolve().parents[1] / "autoencoder.ipynb"
    weights = tmp_path / "autoencoder.safetensors"
    papermill.execute_notebook(
        notebook,
        tmp_path / "out.ipynb",
        {"core_seconds": 0.5, "scenes": 8, "out": str(weights)},
        cwd=notebook.parent,
        progress_bar=False,
    )
    done = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    shown = [o for cell in done.cells if cell.cell_type == "code" for o in cell.outputs]
    assert weights.stat().st_size < 1.5e6
    assert any("image/png" in o.get("data", {}) for o in shown)
