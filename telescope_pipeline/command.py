"""The command ``telescope``, or what is missing for it."""

from __future__ import annotations


def main() -> None:
    """Run the command ``telescope``, or say what is missing for it."""
    try:
        from telescope_pipeline.cli import main as run
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"telescope: the package {error.name} is not installed, which the pipeline needs; the "
            "lens alone does without: pip install 'telescope-lens[pipeline,wandb]'"
        ) from None
    run()
