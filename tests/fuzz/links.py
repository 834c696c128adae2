"""What a module imports from another one of the same program, its library, and from the host.

The library exports all that it has. What is imported comes first in every index space: the library's functions and
those of the host, the budget and some more globals, its table, its tags, sometimes its memory.
"""

from __future__ import annotations

from random import Random

from aiowasm.features import Feature
from aiowasm.syntax.module import Export, Import
from aiowasm.syntax.types import I32, I64, FuncExternType, FuncType, TagType
from tests.fuzz.emitter import ModuleBuilder
from tests.fuzz.hosts import HOSTS

__all__ = ("HOST", "LIBRARY", "export_all", "import_from", "import_host")

LIBRARY = "library"
HOST = "host"


def export_all(library: ModuleBuilder) -> None:
    """Export all entities of the library under names that say what they are."""
    spaces = (
        ("func", library.functypes),
        ("memory", library.mems),
        ("table", library.tables),
        ("tag", library.tags),
    )
    for kind, space in spaces:
        library.exports += [Export(f"{kind}{index}", kind, index) for index in range(len(space))]
    library.exports += [Export(_name(library, index), "global", index) for index in range(len(library.globals))]


def _name(library: ModuleBuilder, index: int) -> str:
    """The name of a global; of integers alone it begins with a g, and everybody can look at them."""
    return f"{'global' if library.globals[index].valtype in (I32, I64) else 'other'}{index}"


def import_from(library: ModuleBuilder, nfuncs: int, module: ModuleBuilder, rng: Random) -> None:
    """Let *module*, which is empty yet, import from the library (its first *nfuncs* functions) and from the host."""
    for index in range(nfuncs):
        _import_function(module, LIBRARY, f"func{index}", library.functypes[index])
    import_host(module)
    for index, globaltype in enumerate(library.globals):
        if not index or rng.random() < 0.4:
            module.imports.append(Import(LIBRARY, _name(library, index), globaltype))
            module.globals.append(globaltype)
            module.nimported_globals += 1
    tabletype = library.tables[0]
    module.imports.append(Import(LIBRARY, "table0", tabletype))
    module.tables.append(tabletype)
    module.nimported_tables = 1
    # What stands where in it; the rest of it may be overwritten.
    module.layouts.append(library.functypes[:nfuncs])
    module.home = 1
    if rng.random() < 0.5:
        module.imports.append(Import(LIBRARY, "memory0", library.mems[0]))
        module.mems.append(library.mems[0])
        module.nimported_mems = 1
    for index, types in enumerate(library.tags):
        module.imports.append(Import(LIBRARY, f"tag{index}", TagType(module.typeidx(FuncType(types, ())))))
        module.tags.append(types)
        module.nimported_tags += 1


def import_host(module: ModuleBuilder) -> None:
    """Let *module* import the functions of the host, its last imported ones."""
    for name, host in HOSTS.items():
        if Feature.MULTI_VALUE in module.features or len(host.results) < 2:
            _import_function(module, HOST, name, host.functype)
    module.nimported_funcs = len(module.functypes)


def _import_function(module: ModuleBuilder, owner: str, name: str, functype: FuncType) -> None:
    module.imports.append(Import(owner, name, FuncExternType(module.typeidx(functype))))
    module.functypes.append(functype)
