"""What the events of a file that was taken say, so that a replay can make its rows again."""

from typing import Any, Final
from uuid import UUID

# The last step of taking a file: $1 at, $2 file_id, $3 shop_id, $4 mode, $5 provider. Breaks come and go until then.
TELL_OF_BREAKS: Final = "SELECT tell_of_the_breaks_of_a_file($1, $2, $3, $4, $5)"

_FILE: Final = """
SELECT file_id, provider, format, name, encode(content_digest, 'hex') AS content_digest, lines, received_at,
       received_by AS by
  FROM settlement_file WHERE file_id = $1
"""
_BATCHES: Final = """
SELECT b.batch, b.currency, b.version, b.fee_minor, b.payout_minor, b.converted_minor
  FROM settlement_file AS f
  JOIN settlement_batch AS b ON b.shop_id = f.shop_id AND b.mode = f.mode AND b.provider = f.provider
                            AND b.file_id = f.file_id
 WHERE f.file_id = $1
 ORDER BY b.batch, b.currency
"""


async def booked(connection: Any, file_id: UUID) -> dict[str, Any]:
    """Tell a file's whole row, and what the books have of each of its batches by now. Its transfers are not in it."""
    told = dict(await connection.fetchrow(_FILE, file_id))
    return told | {"batches": [dict(row) for row in await connection.fetch(_BATCHES, file_id)]}
