"""What an asset says of itself in Dagster's UI.

What belongs here: metadata in the forms that the UI knows. What does not: figures (``rul_core``),
drawing (``rul_core.pictures``).
"""

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
import polars as pl

from rul_store.lake import Lake


class Group:
    """The groups of assets: the processing blocks of ISO 13374, numbered to stay in order.

    The last block, the generation of advisories, reads what the graph leaves in PostgreSQL. Backups
    are no block of it.
    """

    ACQUISITION = "1_data_acquisition"
    MANIPULATION = "2_data_manipulation"
    DETECTION = "3_state_detection"
    ASSESSMENT = "4_health_assessment"
    PROGNOSIS = "5_prognostic_assessment"
    BACKUPS = "backups"


OWNERS = ("team:reliability",)
PICTURE_COLOURS = 32


def table(lake: Lake, asset: str, fleet: str, **more: Any) -> dict[str, Any]:
    """What the UI shows of a table of the lake: rows, columns, size.

    Args:
        lake: Where the table is.
        asset: The table's name.
        fleet: Whose.
        more: Further metadata.
    """
    kept = lake.current(asset, fleet)
    if kept is None:
        return more
    columns = [dg.TableColumn(name, dtype) for name, dtype in kept.columns.items()]
    return {
        "dagster/row_count": kept.rows,
        "dagster/column_schema": dg.TableSchema(columns),
        "bytes": kept.bytes,
        "generation": kept.generation,
        **more,
    }


def picture(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    """A picture that the UI draws in place.

    It is kept in the event log, which nobody prunes, so it is made small: half the size, few
    colours. The picture in full lies in the bundle.

    Args:
        title: Said where the picture cannot be shown.
        png: The picture.
    """
    from PIL import Image  # comes with matplotlib; only runs that draw need it

    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as full:
        half = full.convert("RGB").resize((full.width // 2, full.height // 2), Image.Resampling.BOX)
        half.quantize(PICTURE_COLOURS).save(small, format="png", optimize=True)
    content = base64.b64encode(small.getvalue()).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{content})")


def markdown_table(rows: Iterable[Mapping[str, object]]) -> dg.MarkdownMetadataValue:
    """A few rows as a Markdown table.

    Args:
        rows: All with the same keys.
    """
    listed = list(rows)
    if not listed:
        return dg.MetadataValue.md("none")
    lines = [list(listed[0]), ["---"] * len(listed[0]), *(row.values() for row in listed)]
    return dg.MetadataValue.md(
        "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
    )


def counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    """How often each value occurs, the most frequent first.

    Args:
        frame: Any.
        column: Of strings.
    """
    counted = frame.group_by(column).len().sort("len", column, descending=[True, False])
    return dict(counted.iter_rows())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")
