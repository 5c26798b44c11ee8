from __future__ import annotations

from typing import Any

from telescope_pipeline.store.manifest import joint


def _manifest(width: int) -> dict[str, Any]:
    return {
        "member": f"width-{width}",
        "values": {"width": width},
        "code": "abc",
        "data": {"file": "seed-0.safetensors"},
        "only": width,
    }


def test_a_joint_manifest_says_what_is_common_once_and_loses_nothing() -> None:
    manifests = [_manifest(2), _manifest(3)]
    made = joint(manifests)
    assert made["code"] == "abc"
    assert "values" not in made
    members = made.pop("members")
    for manifest in manifests:
        assert {"member": manifest["member"], **made, **members[manifest["member"]]} == manifest


def test_what_one_member_lacks_is_not_common() -> None:
    manifests = [_manifest(2), _manifest(2) | {"member": "other"}]
    del manifests[1]["only"]
    made = joint(manifests)
    assert "only" not in made
    assert made["members"]["width-2"] == {"only": 2}
    assert made["members"]["other"] == {}
