"""``metrics``: one table of all members, the numbers that sum it up, and the claims."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError, ConfigurationError
from telescope_pipeline.contract import Claim, Member
from telescope_pipeline.parameters import load_case
from telescope_pipeline.progress import spinner
from telescope_pipeline.store import files
from telescope_pipeline.store import table_checks as tables
from telescope_pipeline.store.folders import Layout
from telescope_pipeline.store.manifest import joint
from telescope_pipeline.store.plain import plain

if TYPE_CHECKING:
    import pandas as pd

    from telescope_pipeline.schemas.sections import Case


def run(case_name: str, parameters_path: Path) -> None:
    """Write ``history.parquet``, ``metrics.json``, ``claims.json`` and ``manifest.json``.

    They go to ``results/<case>/``; the manifest says what the members were made of, so that results
    can be told apart where the runs are not kept.

    Raises:
        ConfigurationError: If two claims have the same id.
        TelescopeError: If the parameters or the runs are not usable, or nothing can be written.
    """
    _, case = load_case(parameters_path, case_name)
    layout = Layout.beside(parameters_path)
    with spinner(f"metrics {case_name}"):
        history, manifest = collect(layout.runs(case_name), case)
        kind = f"telescope_pipeline.cases.{case.kind}"
        summarize = import_module(f"{kind}.metrics").summarize
        evaluate = import_module(f"{kind}.claims").claims
        metrics = plain(summarize(case, history), f"{case_name}: metrics")
        claims = [_as_json(claim, case_name) for claim in evaluate(case, history)]
        if len({claim["id"] for claim in claims}) < len(claims):
            raise ConfigurationError(f"{case_name}: two claims have the same id")
        results = layout.results(case_name)
        files.write_parquet(results / "history.parquet", history)
        files.write_json(results / "metrics.json", metrics)
        files.write_json(results / "claims.json", claims)
        files.write_json(results / "manifest.json", manifest)


def collect(runs: Path, case: Case) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join the histories of all members of a case.

    Args:
        runs: The folder ``runs/<case>``.
        case: The case.

    Returns:
        The table described by :class:`~telescope_pipeline.schemas.tables.CaseHistory`, members in
        the order of their names, and their joint manifest.

    Raises:
        ArtifactError: If a member's files are missing or damaged.
        TableError: If a history breaks its schema.
    """
    import pandas as pd

    folders = sorted(path.parent for path in runs.glob("*/manifest.json"))
    if not folders:
        raise ArtifactError(f"{runs}: no trained members; run the train stage first")
    frames = []
    manifests = []
    values: list[str] = []
    for folder in folders:
        manifest = files.read_json(folder / "manifest.json")
        member, digests = _member(manifest, folder)
        manifests.append(manifest)
        history = folder / "history.parquet"
        if files.sha256(history) != digests.get(history.name):
            message = f"{history} is not the file that manifest.json describes; train it again"
            raise ArtifactError(message)
        frame = tables.check_member_history(files.read_parquet(history), case, str(history))
        frames.append(tables.with_identity(frame, member))
        values = list(member.values)
    joined = pd.concat(frames, ignore_index=True)
    checked = tables.check_case_history(joined, case, values, f"history of {runs.name}")
    return checked, joint(manifests)


def _member(manifest: Any, folder: Path) -> tuple[Member, dict[str, str]]:
    try:
        member = Member(
            name=manifest["member"],
            group=manifest["group"],
            seed=manifest["seed"],
            values=manifest["values"],
            data=manifest["data"]["file"].removesuffix(".safetensors"),
        )
        return member, dict(manifest["outputs"])
    except (KeyError, TypeError, AttributeError) as error:
        path = folder / "manifest.json"
        raise ArtifactError(f"{path}: not a manifest ({error}); train it again") from None


def _as_json(claim: Claim, case_name: str) -> dict[str, Any]:
    found: dict[str, Any] = plain(vars(claim), f"{case_name}: claim {claim.id}")
    return found
