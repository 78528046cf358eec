"""Grafana's own model of a dashboard as a judge: the classes of grafana-foundation-sdk, generated from Grafana's schemas.

The SDK decodes whatever it is given. So we ask three things of what it decoded: does it encode to all that we wrote (a field
that Grafana does not know is lost), has every value the type that its class declares, and is every unit one that the SDK
lists. Options of transformations have no type in Grafana's schemas; renderer.py refuses those that it does not know.
"""

import enum
import json
import types
import typing

from grafana_foundation_sdk.cog import encoder, plugins, runtime
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units

plugins.register_default_plugins()
UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}


def complaints(dashboard):
    """What Grafana's model does not allow in that dashboard, each with its place; empty for a valid one."""
    found = list(_conform(model.Dashboard, dashboard, "dashboard"))
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        where = f"panel '{panel['title']}'"
        if runtime.panelcfg_config(panel["type"]) is None:
            found.append(f"{where}: Grafana has no panel of type {panel['type']}")
        for unit in _units(panel):
            if unit not in UNITS:
                found.append(f"{where}: Grafana has no unit {unit!r}")
        # The value of an override is untyped in the schema; as a default of the same panel it has a type.
        for override in panel["fieldConfig"]["overrides"]:
            for entry in override["properties"]:
                defaults = entry["value"]
                for key in reversed(entry["id"].split(".")):
                    defaults = {key: defaults}
                found += _conform(model.Panel, {"type": panel["type"], "fieldConfig": {"defaults": defaults, "overrides": []}},
                                  f"{where}, override of {override['matcher']['options']}")
    return found


def _conform(kind, raw, where):
    try:
        decoded = kind.from_json(raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"{where}: cannot be decoded: {error!r}"
        return
    encoded = json.loads(json.dumps(decoded, cls=encoder.JSONEncoder))
    yield from _lost(raw, encoded, where)
    yield from _ill_typed(decoded, kind, where)


def _lost(raw, encoded, where):
    if isinstance(raw, dict) and isinstance(encoded, dict):
        for key, value in raw.items():
            # The encoder leaves out what is null.
            if key in encoded or value is not None:
                if key not in encoded:
                    yield f"{where}.{key}: Grafana knows no such field"
                else:
                    yield from _lost(value, encoded[key], f"{where}.{key}")
    elif isinstance(raw, list) and isinstance(encoded, list) and len(raw) == len(encoded):
        for index, (one, other) in enumerate(zip(raw, encoded)):
            yield from _lost(one, other, f"{where}[{index}]")
    elif raw != encoded:
        yield f"{where}: {raw!r} becomes {encoded!r}"


def _ill_typed(value, hint, where):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        attempts = [list(_ill_typed(value, argument, where)) for argument in arguments]
        if all(attempts):
            # The longest place is the deepest, which is where the mistake is.
            yield from max(attempts, key=lambda attempt: len(attempt[0].partition(": ")[0]))
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{where}: {value!r} is none of {list(arguments)}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
        else:
            for index, entry in enumerate(value):
                yield from _ill_typed(entry, arguments[0], f"{where}[{index}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no object"
    elif type(value).__module__.startswith("grafana_foundation_sdk.models") and not isinstance(value, enum.Enum):
        for name, field_hint in typing.get_type_hints(type(value)).items():
            yield from _ill_typed(getattr(value, name), field_hint, f"{where}.{name}")
    elif isinstance(value, dict) and hasattr(hint, "from_json"):
        yield from _conform(hint, value, where)  # The SDK leaves some lists of objects undecoded.
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [member.value for member in hint]:
            yield f"{where}: {value!r} is none of {[member.value for member in hint]}"
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield f"{where}: {value!r} is no number"
    elif hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"{where}: {value!r} is no whole number"
    elif hint is not object and not isinstance(value, hint):
        yield f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}"


def _units(panel):
    config = panel["fieldConfig"]
    if "unit" in config["defaults"]:
        yield config["defaults"]["unit"]
    for override in config["overrides"]:
        yield from (entry["value"] for entry in override["properties"] if entry["id"] == "unit")
    for part in ("yAxis", "cellValues"):
        if "unit" in panel["options"].get(part, {}):
            yield panel["options"][part]["unit"]
