"""What the depot needs no more, found and removed while nights are at work, without any lock.

Why nothing is removed that a ref holds, or will hold. Let u be an upload that `collect` removes because it saw neither
pin, ref nor hold of it. It looked at four things one after the other: uploads, pins, refs, holds.

1. A cell's record only ever holds what the record before it held, or an upload that its process has pinned since before
   the first byte (`Depot.move` refuses all else). So from its making on, u is pinned until a ref holds it, then held by
   records of its one cell without a gap, and once the cell lets go of it, no record will hold it again.
2. u was there when uploads were listed, so its pin was there before. Had a record come to hold u later than the look at
   u's cell, its pin would have stood through the look at pins, which came in between, and u would have been spared.
3. So the cell had held u and had let go of it before the look at refs, for ever by 1., or u was never to be held.
4. `Depot.hold` writes the hold and then makes sure that a ref holds u. By 3., that was before the look at refs, and so
   before the look at holds, which was to find the hold.

A pin whose process was killed would stay for ever; after `PIN_DAYS` it counts no more, and `Depot.move` trusts none
that is nearly as old. Interrupted at any point, `collect` leaves uploads without a manifest, for the next one to
remove.
"""

from __future__ import annotations

import time
from collections import defaultdict

from builder.depot import ref_log, uploads
from builder.depot.objects import Objects
from builder.depot.uploads import ARTIFACTS, PINS, Upload
from builder.manifest import MANIFEST

HOLDS = "holds"
PIN_DAYS = 7.0
KEEP_RECORDS = 500
"""How much history of a cell stays."""
_DAY_S = 86400.0


def collect(objects: Objects, *, keep_days: float, dry_run: bool) -> list[str]:
    """Remove (or only name) unneeded uploads, dead pins and ancient records; returns their paths."""
    now = time.time()
    files: dict[Upload, set[str]] = defaultdict(set)
    for path in objects.below(ARTIFACTS):
        if found := uploads.parse(path):
            files[found[0]].add(found[1])
    pins = _pins(objects, now)
    referred = {
        (entry.digest, entry.upload)
        for version in ref_log.read_all(objects).values()
        for entry in version.record.entries().values()
    }
    held = {path.split("/")[1] for path in objects.below(HOLDS)}
    doomed = [
        upload
        for upload, names in files.items()
        if not pins.get(upload.pin)
        and (upload.digest, upload.id) not in referred
        and not (MANIFEST in names and (upload.digest in held or now - upload.made_unix_s < keep_days * _DAY_S))
    ]
    dead = [path for path, alive in pins.items() if not alive]
    trimmed = ref_log.trimmable(objects, KEEP_RECORDS)
    if not dry_run:
        for upload in doomed:
            objects.delete([upload.manifest])  # first: from here on it is not complete
            objects.delete([f"{upload.folder}/{name}" for name in sorted(files[upload])])
        objects.delete(dead)
        for path in trimmed:  # one by one, for the order counts: see `ref_log.append`
            objects.delete([path])
    return [*(upload.folder for upload in doomed), *dead, *trimmed]


def _pins(objects: Objects, now_unix_s: float) -> dict[str, bool]:
    """All pins, and whether they still count."""
    found = objects.read(objects.below(PINS))
    return {path: now_unix_s - uploads.pinned_at(data) < PIN_DAYS * _DAY_S for path, data in found.items()}
