"""What a member is made of: the manifest beside its results, and the key it is found by."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_pipeline.parameters.user_code import user_paths
from telescope_pipeline.store.code import digest, training_digest

if TYPE_CHECKING:
    from telescope_pipeline.contract import Member
    from telescope_pipeline.parameters.model import RunSettings
    from telescope_pipeline.schemas.sections import Case

# Raise it when the same ingredients give other files, e.g. because the manifest changes.
FORMAT = 1

_LIBRARIES = ("torch", "numpy", "pandas", "pyarrow", "safetensors", "scikit-learn", "scipy")


def manifest_of(
    case: Case, member: Member, run: RunSettings, data_sha256: str, root: Path
) -> dict[str, Any]:
    """Collect what decides the result of a member, and nothing that does not.

    Args:
        case: The case; what it says of other members is left out.
        member: The member.
        run: The run settings, of which seed, device and threads matter.
        data_sha256: Hash of the data file the member trains on.
        root: The project's folder, below which the user's code lies.

    Returns:
        A JSON-able mapping, the same wherever and whenever the member is trained.
    """
    own = case.narrowed(member.values, member.seed)
    users = user_paths(own, "train", root)
    return {
        "format": FORMAT,
        "member": member.name,
        "group": member.group,
        "seed": member.seed,
        "values": dict(member.values),
        "kind": case.kind,
        "parameters": own.model_dump(mode="json", exclude={"kind", "seeds", "claims", "plot"}),
        "run": {"seed": run.seed, "device": run.device, "threads": run.threads},
        "data": {"file": f"{member.data}.safetensors", "sha256": data_sha256},
        "code": training_digest(case.kind),
        **({"user_code": digest({path: root / path for path in users})} if users else {}),
        "libraries": libraries(),
    }


def joint(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the manifests of a case's members into one that says everything once.

    Args:
        manifests: Manifests as they lie beside the members' results.

    Returns:
        What all members have in common, and under ``members`` the rest by name of the member.
    """
    first = manifests[0]
    common = {
        key: value
        for key, value in first.items()
        if key != "member" and all(other.get(key) == value for other in manifests)
    }
    members = {
        manifest["member"]: {
            key: value for key, value in manifest.items() if key != "member" and key not in common
        }
        for manifest in manifests
    }
    return {**common, "members": members}


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute and write results."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def key_of(manifest: dict[str, Any]) -> str:
    """Hash a manifest into the key of the member's place in the scratch folder."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
