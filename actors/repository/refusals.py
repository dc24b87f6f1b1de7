"""What git says of a patch or a bundle that is wrong itself, told apart from a disk, a limit or a cache that is.

Its exit status does not tell: 1 and 128 stand for both. So every line must be one that only wrong input causes.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"^(?:error|fatal): ", re.MULTILINE)
_PATCH = re.compile(
    r"""patch\ failed:.*|.*:\ patch\ does\ not\ apply|.*:\ does\ not\ exist\ in\ index|.*:\ already\ exists\ in\ index
    |.*:\ wrong\ type|path\ .*\ has\ been\ renamed/deleted|invalid\ path\ .*|affected\ file\ .*
    |.*\ beyond\ a\ symbolic\ link
    |.*\ appears\ as\ both\ a\ file\ and\ as\ a\ directory|unable\ to\ add\ cache\ entry\ for\ .*
    |new\ mode\ .*\ does\ not\ match\ old\ mode\ .*|removal\ patch\ leaves\ file\ contents
    |deleted\ file\ .*|new\ file\ .*
    |No\ valid\ patches\ in\ input.*|corrupt\ (?:binary\ )?patch\ .*|unrecognized\ binary\ patch\ .*
    |inflate:\ .*|missing\ binary\ patch\ data\ for\ .*
    |patch\ with\ only\ garbage\ .*|patch\ fragment\ without\ header\ .*|git\ diff\ header\ lacks\ .*
    |unable\ to\ find\ filename\ in\ patch\ .*|git\ apply:\ bad\ git-diff\ .*
    |inconsistent\ header\ lines\ .*|invalid\ mode\ .*
    |cannot\ (?:reverse-)?apply\ (?:a\ )?binary\ patch\ .*|binary\ patch\ .*|the\ patch\ applies\ to\ .*""",
    re.VERBOSE | re.DOTALL,
)
_BUNDLE = re.compile(
    r"""index-pack\ died|.*\ does\ not\ look\ like\ a\ v2\ or\ v3\ bundle\ file|unrecognized\ header.*
    |unrecognized\ bundle\ hash\ algorithm.*|unknown\ capability.*|Repository\ lacks\ these\ prerequisite\ commits:
    |[0-9a-f]{40,64}.*|early\ EOF|inflate:\ .*|pack\ has\ .*|pack\ is\ corrupted.*|pack\ signature\ mismatch
    |pack\ version\ .*|serious\ inflate\ inconsistency.*|Needed\ a\ single\ revision""",
    re.VERBOSE | re.DOTALL,
)


def is_of_patch(why: str) -> bool:
    """`git apply` failed since the patch is corrupt or does not apply.

    A file that cannot be read is said not to apply too, after another line that says why. An object that cannot be
    inflated is named after the line that says so; of a binary hunk, the patch is called corrupt.
    """
    return _only(_PATCH, why)


def is_of_bundle(why: str) -> bool:
    """`git bundle unbundle` failed since the file is no bundle, or damaged; index-pack alone may die of anything."""
    return _only(_BUNDLE, why) and why.strip() != "error: index-pack died"


def _only(words: re.Pattern[str], why: str) -> bool:
    lines = [line.strip() for line in _LINE.split(why)[1:]]
    return bool(lines) and all(map(words.fullmatch, lines))
