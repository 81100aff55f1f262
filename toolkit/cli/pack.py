"""The command `toolkit pack`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="File to write.", show_default="DIRECTORY/model.packed")
@click.option("--half", multiple=True, metavar="PATTERN", help="Tensors to round to float16, e.g. '*bias'; repeatable.")
@click.option("--norms", is_flag=True, help="Reduce each batch norm to a scale and a shift.")
@click.option("--allow", multiple=True, metavar="SOURCE", help="Class, file or package to load; repeatable.")
def pack(directory: Path, output: Path | None, half: tuple[str, ...], norms: bool, allow: tuple[str, ...]) -> None:
    """Pack the model in DIRECTORY into one small file.

    DIRECTORY is a run directory or one of its stages. Zeros, shared values and small integers are entropy-coded without
    loss. Only --half and --norms change the outputs of the model, slightly; `toolkit evaluate FILE` measures the
    effect.
    """
    from toolkit import model_files as artifact
    from toolkit.errors import InputError
    from toolkit.metrics import counts
    from toolkit.model_files.packed import pack, slimmed
    from toolkit.number_text import bytes_text
    from toolkit.storage.files import write_file

    model = artifact.load(directory, allow)
    if half or norms:
        model = slimmed(model, half, norms)
    content = pack(model)
    path = output or (directory.parent if directory.is_file() else directory) / artifact.PACKED
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    dense = 4 * counts(model)["parameters"]
    ratio = f", {dense / len(content):.1f} times smaller than its parameters in float32" if dense else ""
    click.echo(f"{path}: {len(content)} bytes ({bytes_text(len(content))}){ratio}")
