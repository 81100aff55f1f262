"""The command that writes a model in as few bytes as it takes."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="The file; by default model.packed in DIRECTORY.")
@click.option("--half", multiple=True, metavar="PATTERN", help="Round these tensors to float16: '*bias', or '*'.")
@click.option("--norms", is_flag=True, help="Reduce batch norms to a scale and a shift.")
@click.option("--allow", multiple=True, metavar="SOURCE", help="A class of your own in the model: nets.py:Net.")
def pack(directory: Path, output: Path | None, half: tuple[str, ...], norms: bool, allow: tuple[str, ...]) -> None:
    """Write the model in DIRECTORY, a run directory or one of its stages, as one file of as few bytes as it takes.

    Zeros, shared values and small integers are entropy-coded, and come back bit by bit. Only --half and --norms change
    what the model computes, a little: toolkit evaluate FILE measures it.
    """
    from toolkit import model_files as artifact
    from toolkit.errors import InputError
    from toolkit.metrics import counts
    from toolkit.model_files.packed import pack, slimmed
    from toolkit.number_text import bytes_text
    from toolkit.runner.evaluation import class_of
    from toolkit.storage.files import write_file

    model = artifact.load(directory, [class_of(source) for source in allow])
    if half or norms:
        model = slimmed(model, half, norms)
    content = pack(model)
    path = output or (directory.parent if directory.is_file() else directory) / artifact.PACKED
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    dense = 4 * counts(model)["parameters"]
    ratio = f", {dense / len(content):.1f} times smaller than its parameters in float32" if dense else ""
    click.echo(f"{path}: {len(content)} bytes ({bytes_text(len(content))}){ratio}")
