"""Modules for users: decoded and validated once, immutable, shared by any number of stores."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal

import anyio.to_thread

from aiowasm.binary.decoder import decode_steps
from aiowasm.engine.instance import name_steps
from aiowasm.errors import InvalidError
from aiowasm.features import DEFAULT, Features
from aiowasm.store.engines import scan
from aiowasm.store.gate import stepwise
from aiowasm.syntax import module as syntax
from aiowasm.syntax.types import ExternType, FuncExternType, FuncType, GlobalType, MemType, TableType
from aiowasm.validation.module import ValidatedModule, validate_module_steps, validate_shell_steps

__all__ = ("CustomSection", "ExportType", "ImportType", "Module", "Validation")

_MANY_NAMES_NBYTES = 8192
"""A name section above that is decoded in steps with the module; others when a trace needs them, at once."""
_SCANNED_NBYTES = 20_000
"""Bodies of less are validated before machine code for it is loaded."""
Validation = Literal["eager", "lazy"]
Type = FuncType | TableType | MemType | GlobalType
"""The type of an import or export; that of a tag is a function type without results."""


@dataclass(frozen=True, slots=True)
class ImportType:
    """An import: `kind` is func, table, memory, global or tag."""

    module: str
    name: str
    kind: str
    type: Type


@dataclass(frozen=True, slots=True)
class ExportType:
    """An export: `kind` is func, table, memory, global or tag."""

    name: str
    kind: str
    type: Type


@dataclass(frozen=True, slots=True)
class CustomSection:
    """A custom section."""

    name: str
    data: bytes


class Module:
    """A module. Made by `from_bytes`, `from_text` or `from_file`; holds no state of instances."""

    def __init__(self, validated: ValidatedModule, source: bytes | None, validation: Validation) -> None:
        self._validated = validated
        self._source = source
        self._validation: Validation = validation
        self._others: dict[Features, ValidatedModule] = {}

    def __repr__(self) -> str:
        module = self._validated.module
        return f"<Module: {len(module.imports)} imports, {len(module.exports)} exports>"

    @classmethod
    async def from_bytes(
        cls, data: bytes | bytearray | memoryview, *, features: Features = DEFAULT, validation: Validation = "eager"
    ) -> Module:
        """Decode and validate a binary module, in steps that let the event loop run.

        Args:
            data: The bytes of the module.
            features: The proposals it may use.
            validation: "eager", or "lazy": each function before it first runs, an InvalidError of the call that does.

        Raises:
            MalformedError: The bytes are not a module.
            InvalidError: The module breaks a validation rule, needs a feature, or exceeds an implementation limit.
        """
        source = bytes(data)
        module = await stepwise(decode_steps(source, features))
        return cls(await _validate(module, features, _checked(validation)), source, validation)

    @classmethod
    async def from_text(cls, text: str, *, features: Features = DEFAULT, validation: Validation = "eager") -> Module:
        """Parse and validate a module in text format (.wat), in steps too; see `from_bytes`.

        Identifiers become names, as if there were a name section.
        """
        return await cls._from_text(text, features, validation)

    @classmethod
    async def from_file(
        cls, path: str | PathLike[str], *, features: Features = DEFAULT, validation: Validation = "eager"
    ) -> Module:
        """Read, decode and validate a .wasm or .wat file; see `from_bytes`.

        What it is, its first bytes say: a binary module starts with a zero byte.

        Raises:
            OSError: The file cannot be read.
        """
        data = await anyio.to_thread.run_sync(Path(path).read_bytes)
        if data[:1] == b"\0" or not str(path).endswith(".wat"):
            return await cls.from_bytes(data, features=features, validation=validation)
        return await cls._from_text(data, features, validation)

    @classmethod
    async def _from_text(cls, text: str | bytes, features: Features, validation: Validation) -> Module:
        # Imported here: most applications have no text.
        from aiowasm.text.parser import parse_module_steps  # noqa: PLC0415
        from aiowasm.text.positions import Positions  # noqa: PLC0415

        positions = Positions()
        # Identifiers are kept as names, for traces.
        module = await stepwise(parse_module_steps(text, features, names=True, positions=positions))
        try:
            return cls(await _validate(module, features, _checked(validation)), None, validation)
        except InvalidError as error:
            raise positions.located(error) from None

    async def validated_for(self, features: Features) -> ValidatedModule:
        """Return the validated module under *features* too.

        Raises:
            InvalidError: It needs a feature that is not among them.
        """
        if features >= self._validated.features:
            return self._validated
        features = features & self._validated.features
        known = self._others.get(features)
        if known is None:
            module = self._validated.module
            if self._source is not None:
                module = await stepwise(decode_steps(self._source, features))
            known = self._others[features] = await _validate(module, features, self._validation)
        return known

    @cached_property
    def imports(self) -> tuple[ImportType, ...]:
        """What the module needs, in order."""
        validated = self._validated
        counts = {"func": 0, "table": 0, "memory": 0, "global": 0, "tag": 0}
        found = []
        for entry in validated.module.imports:
            kind = kind_of(entry.type)
            found.append(ImportType(entry.module, entry.name, kind, type_of(validated, kind, counts[kind])))
            counts[kind] += 1
        return tuple(found)

    @cached_property
    def exports(self) -> tuple[ExportType, ...]:
        """What the module offers, in order."""
        validated = self._validated
        return tuple(
            ExportType(export.name, export.kind, type_of(validated, export.kind, export.index))
            for export in validated.module.exports
        )

    @cached_property
    def custom_sections(self) -> tuple[CustomSection, ...]:
        """All custom sections, in order."""
        return tuple(CustomSection(custom.name, custom.data) for custom in self._validated.module.customs)

    @cached_property
    def exported(self) -> dict[str, syntax.Export]:
        """Exports by name, for instances: it is not to be changed."""
        return {export.name: export for export in self._validated.module.exports}


def kind_of(externtype: ExternType) -> str:
    """Return func, table, memory, global or tag."""
    if isinstance(externtype, FuncExternType):
        return "func"
    if isinstance(externtype, TableType):
        return "table"
    if isinstance(externtype, MemType):
        return "memory"
    return "global" if isinstance(externtype, GlobalType) else "tag"


def type_of(validated: ValidatedModule, kind: str, index: int) -> Type:
    """Return the closed type of an entity of an index space."""
    if kind in ("func", "tag"):
        comptype = (validated.funcs if kind == "func" else validated.tags)[index].comptype
        if not isinstance(comptype, FuncType):
            raise TypeError("a function or tag without a function type")
        return comptype
    spaces: dict[str, list[TableType] | list[MemType] | list[GlobalType]] = {
        "table": validated.tables,
        "memory": validated.mems,
        "global": validated.globals,
    }
    return spaces[kind][index]


def _checked(validation: str) -> str:
    if validation not in ("eager", "lazy"):
        raise ValueError(f"validation must be eager or lazy, not {validation!r}")
    return validation


async def _validate(module: syntax.Module, features: Features, validation: str) -> ValidatedModule:
    steps: Generator[None, None, ValidatedModule]
    if validation == "lazy":
        steps = validate_shell_steps(module, features)
    else:
        large = sum(module.funcs.ends) - sum(module.funcs.starts) > _SCANNED_NBYTES
        steps = validate_module_steps(module, features, scan() if large else None)
    validated = await stepwise(steps)
    if any(custom.name == "name" and custom.nbytes > _MANY_NAMES_NBYTES for custom in module.customs):
        await stepwise(name_steps(validated))
    return validated
