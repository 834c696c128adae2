"""Modules of the text format (the standard's chapter 6.6): `parse_module`, and `parse_module_fields` inside scripts.

Identifiers may be used before they are bound, so the fields are walked three times: to number what they define, to read
the types, to read the rest. Instructions, types and literals have their own files.
"""

from __future__ import annotations

from array import array
from collections.abc import Sized
from dataclasses import replace
from typing import TypeVar

from aiowasm.features import DEFAULT, Feature, Features
from aiowasm.syntax.code import encode_instruction, encode_locals, read_instruction
from aiowasm.syntax.instructions import BY_NAME
from aiowasm.syntax.module import Custom, Data, Elem, Export, Expr, Funcs, Global, Import, Module, Table
from aiowasm.syntax.steps import Steps, finish
from aiowasm.syntax.types import (
    FUNCREF,
    AbsHeapType,
    AddressType,
    ExternType,
    FuncExternType,
    Limits,
    MemType,
    RefType,
    SubType,
    TableType,
    TagType,
    ValType,
)
from aiowasm.text.annotations import branch_hint_section, custom_section, in_order, name_of, name_section
from aiowasm.text.code import BRANCH_HINT, CodeParser
from aiowasm.text.lexer import Annotation, Lexer
from aiowasm.text.positions import Positions
from aiowasm.text.types import Context

__all__ = ("parse_module", "parse_module_fields", "parse_module_steps")

T = TypeVar("T")

_EXTERNS = ("func", "table", "memory", "global", "tag")
_FUNC = RefType(False, AbsHeapType.FUNC)
_KNOWN_ANNOTATIONS = ("custom", "name", BRANCH_HINT)


def parse_module(
    text: str | bytes, features: Features = DEFAULT, *, names: bool = False, positions: Positions | None = None
) -> Module:
    """The module that a text is: `(module ...)`, or its fields alone.

    Of the features only those matter that change the grammar (limits of 64 bits, elements that are not functions);
    validation looks at the others. With *names*, identifiers become a name section, so that traces show them; @name
    annotations win over them. *positions* are filled, if given.

    Raises `MalformedError` for anything else, with line and column.
    """
    return finish(parse_module_steps(text, features, names=names, positions=positions))


def parse_module_steps(
    text: str | bytes, features: Features = DEFAULT, *, names: bool = False, positions: Positions | None = None
) -> Steps[Module]:
    """Parse as `parse_module` does, in steps: yields None about every millisecond of work, returns the module."""
    lexer = yield from Lexer.steps(text)
    if lexer.at_form("module"):
        module = yield from _module_steps(lexer, features, names, positions)
    else:
        module = yield from _ModuleParser(lexer, features, names, positions).parse(0)
    if lexer.kind != "eof":
        raise lexer.unexpected()
    # An annotation behind the module belongs to nothing.
    _refuse_annotations(lexer, 0, lexer.position)
    return module


def parse_module_fields(
    lexer: Lexer, features: Features = DEFAULT, *, names: bool = False, positions: Positions | None = None
) -> Module:
    """Pass `(module ...)` in a text, where `lexer` is before its parenthesis; the rest is as for `parse_module`."""
    return finish(_module_steps(lexer, features, names, positions))


def _module_steps(lexer: Lexer, features: Features, names: bool, positions: Positions | None) -> Steps[Module]:
    at = lexer.position
    lexer.open("module")
    lexer.accept("definition")
    identifier = lexer.accept_id()
    parser = _ModuleParser(lexer, features, names, positions)
    if names and identifier is not None:
        parser.module_name = identifier[1:]
    module = yield from parser.parse(at)
    lexer.close()
    return module


def _functions(exprs: list[Expr]) -> array[int] | None:
    """The functions that expressions refer to, if each is a `ref.func`."""
    functions = array("I")
    for expr in exprs:
        row, immediates, after = read_instruction(expr.code, 0)
        if row.name != "ref.func" or after != len(expr.code) - 1:
            return None
        functions.append(immediates[0])
    return functions


def _refuse_annotations(lexer: Lexer, start: int, end: int) -> None:
    for position, found in lexer.annotations.items():
        if start <= position <= end:
            for annotation in found:
                if annotation.name == BRANCH_HINT:
                    raise lexer.error(f"@{BRANCH_HINT} annotation: not in a function", annotation.offset)
                if annotation.name in _KNOWN_ANNOTATIONS:
                    raise lexer.error(f"misplaced @{annotation.name} annotation", annotation.offset)


def _sections(module: Module) -> set[int]:
    """The ids of the sections that the binary form of *module* has."""
    contents: dict[int, Sized] = {
        1: module.types,
        2: module.imports,
        3: module.funcs,
        4: module.tables,
        5: module.mems,
        13: module.tags,
        6: module.globals,
        7: module.exports,
        9: module.elems,
        10: module.funcs,
        11: module.datas,
    }
    present = {section for section, items in contents.items() if len(items)}
    if module.start is not None:
        present.add(8)
    if module.data_count is not None:
        present.add(12)
    return present


class _ModuleParser:
    """Parses the fields of one module."""

    def __init__(self, lexer: Lexer, features: Features, with_names: bool, positions: Positions | None) -> None:
        self.lexer = lexer
        self.positions = positions
        if positions is not None:
            positions.source = lexer.source
        self.with_names = with_names
        self.features = features
        self.context = Context(lexer, 64 if Feature.MEMORY64 in features else 32)
        self.buffer = bytearray()
        self.code = CodeParser(self.context, self.buffer, positions)
        self.counts = dict.fromkeys(_EXTERNS, 0)
        self.typeidxs = array("I")
        self.starts = array("Q")
        self.ends = array("Q")
        self.imports: list[Import] = []
        self.tables: list[Table] = []
        self.mems: list[MemType] = []
        self.tags: list[TagType] = []
        self.globals: list[Global] = []
        self.exports: list[Export] = []
        self.start: int | None = None
        self.elems: list[Elem] = []
        self.datas: list[Data] = []
        self.customs: list[Custom] = []
        self.module_name: str | None = None
        self.names: dict[str, dict[int, str]] = {}
        self.hints: dict[int, list[tuple[int, int]]] = {}

    def parse(self, module_start: int) -> Steps[Module]:
        """Pass fields up to the parenthesis that closes the module, or the end of the text."""
        lexer = self.lexer
        fields_start = lexer.position
        self._module_names(fields_start)
        self._customs(fields_start)
        fields = yield from self._number_fields()
        end = lexer.position
        for position in fields:
            lexer.position = position
            if lexer.at_form("type") or lexer.at_form("rec"):
                self._type_field()
                yield
        for position in fields:
            lexer.position = position + 1
            word = lexer.take_keyword()
            if word == "func":
                yield from self._func_field()
            elif word not in ("type", "rec"):
                getattr(self, f"_{word}_field")()
            yield
        lexer.position = end
        _refuse_annotations(lexer, module_start + 1, end)
        return self._module()

    def _module(self) -> Module:
        customs = list(self.customs)
        if self.with_names:
            for space, identifiers in self.context.ids.items():
                found = {index: identifier[1:] for identifier, index in identifiers.items()}
                if found:
                    self.names[space] = found | self.names.get(space, {})
        if self.module_name is not None or self.names:
            customs.append(name_section(self.module_name, self.names))
        if self.hints:
            customs.append(branch_hint_section(self.hints))
        module = Module(
            types=tuple(self.context.rectypes),
            imports=tuple(self.imports),
            funcs=Funcs(self.typeidxs, bytes(self.buffer), self.starts, self.ends),
            tables=tuple(self.tables),
            mems=tuple(self.mems),
            tags=tuple(self.tags),
            globals=tuple(self.globals),
            exports=tuple(self.exports),
            start=self.start,
            elems=tuple(self.elems),
            data_count=len(self.datas) if self.code.uses_data else None,
            datas=tuple(self.datas),
        )
        return replace(module, customs=in_order(customs, _sections(module))) if customs else module

    # Annotations.

    def _take_annotations(self, position: int, name: str) -> list[Annotation]:
        found = self.lexer.annotations.get(position, [])
        mine = [annotation for annotation in found if annotation.name == name]
        found[:] = [annotation for annotation in found if annotation.name != name]
        return mine

    def _module_names(self, position: int) -> None:
        found = self._take_annotations(position, "name")
        if len(found) > 1:
            raise self.lexer.error("@name annotation: multiple module", found[1].offset)
        if found:
            self.module_name = name_of(self.lexer, found[0])

    def _customs(self, position: int) -> None:
        for annotation in self._take_annotations(position, "custom"):
            self.customs.append(custom_section(self.lexer, annotation))

    def _name(self, space: str, index: int) -> None:
        for annotation in self._take_annotations(self.lexer.position, "name"):
            if index in self.names.setdefault(space, {}):
                raise self.lexer.error(f"@name annotation: multiple {space}", annotation.offset)
            self.names[space][index] = name_of(self.lexer, annotation)

    # Numbering.

    def _bind(self, space: str) -> None:
        """Number a definition, whose identifier may come next."""
        lexer, context = self.lexer, self.context
        index = context.counts[space]
        context.counts[space] = index + 1
        if lexer.kind == "id":
            name = str(lexer.value)
            if name in context.ids[space]:
                raise lexer.error(f"duplicate {space} {name}")
            context.ids[space][name] = index
            lexer.position += 1
        self._name(space, index)

    def _number_fields(self) -> Steps[list[int]]:
        lexer = self.lexer
        fields: list[int] = []
        defined: str | None = None
        while lexer.kind == "(":
            at = lexer.position
            lexer.position += 1
            word = lexer.take_keyword()
            imported = word == "import"
            if word == "type":
                self._bind("type")
            elif word == "rec":
                while lexer.accept_form("type"):
                    self._bind("type")
                    lexer.position -= 1 + (lexer.kinds[lexer.position - 1] == "id")
                    lexer.position -= 1
                    lexer.skip_form()
            elif word == "import":
                lexer.take_name()
                lexer.take_name()
                lexer.take("(")
                kind = lexer.take_keyword()
                if kind not in _EXTERNS:
                    lexer.position -= 1
                    raise lexer.unexpected()
                self._bind(kind)
            elif word in _EXTERNS:
                self._bind(word)
                while lexer.at_form("export"):
                    lexer.skip_form()
                imported = lexer.at_form("import")
                if not imported:
                    defined = defined or word
                    self._number_inline_segment(word)
            elif word in ("elem", "data"):
                self._bind(word)
            elif word not in ("export", "start"):
                lexer.position -= 1
                raise lexer.unexpected()
            if imported and defined is not None:
                raise lexer.error(f"import after {'function' if defined == 'func' else defined}", lexer.offsets[at])
            lexer.position = at
            yield from lexer.skip_form_steps()
            fields.append(at)
            self._customs(lexer.position)
            yield
        if lexer.kind not in (")", "eof"):
            raise lexer.unexpected()
        return fields

    def _number_inline_segment(self, word: str) -> None:
        """Count the segment that a table or memory holds inline: it has no identifier, but an index."""
        lexer = self.lexer
        if word not in ("table", "memory"):
            return
        while lexer.kind == "keyword" or lexer.at_form("ref") or lexer.at_form("pagesize"):
            lexer.skip_form()
        segment = "elem" if word == "table" else "data"
        if lexer.at_form(segment):
            self.context.counts[segment] += 1

    # Fields. Each passes its form, whose `(word` is passed already.

    def _type_field(self) -> None:
        lexer, context = self.lexer, self.context
        typeidx = len(context.subtypes)
        if lexer.accept_form("type"):
            context.add_rectype([context.typedef(typeidx)])
            return
        lexer.open("rec")
        subtypes: list[SubType] = []
        while lexer.accept_form("type"):
            subtypes.append(context.typedef(typeidx + len(subtypes)))
        lexer.close()
        context.add_rectype(subtypes)

    def _import_field(self) -> None:
        lexer = self.lexer
        module, name = lexer.take_name(), lexer.take_name()
        lexer.take("(")
        kind = lexer.take_keyword()
        lexer.accept_id()
        self.counts[kind] += 1
        self.imports.append(Import(module, name, self._externtype(kind)))
        lexer.close()
        lexer.close()

    def _externtype(self, kind: str) -> ExternType:
        context = self.context
        if kind == "func":
            return FuncExternType(context.typeuse({})[0])
        if kind == "tag":
            return TagType(context.typeuse({})[0])
        if kind == "table":
            return context.tabletype()
        return context.memtype() if kind == "memory" else context.globaltype()

    def _inline(self, kind: str) -> bool:
        """Pass the identifier and inline exports, and an inline import to its end: then True."""
        lexer = self.lexer
        lexer.accept_id()
        index = self.counts[kind]
        self.counts[kind] = index + 1
        while lexer.accept_form("export"):
            self.exports.append(Export(lexer.take_name(), kind, index))
            lexer.close()
        if not lexer.accept_form("import"):
            return False
        module, name = lexer.take_name(), lexer.take_name()
        lexer.close()
        self.imports.append(Import(module, name, self._externtype(kind)))
        lexer.close()
        return True

    def _func_field(self) -> Steps[None]:
        funcidx = self.counts["func"]
        if self._inline("func"):
            return
        lexer, context, code = self.lexer, self.context, self.code
        names: dict[str, int] = {}
        typeidx, functype = context.typeuse(names)
        count = len(functype.params)
        runs: list[tuple[int, ValType]] = []
        while lexer.accept_form("local"):
            name = lexer.accept_id()
            if name is not None:
                if name in names:
                    lexer.position -= 1
                    raise lexer.error(f"duplicate local {name}")
                names[name] = count
                types = [context.valtype()]
                lexer.close()
            else:
                types = context.valtypes()
            count += len(types)
            for valtype in types:
                if runs and runs[-1][1] == valtype:
                    runs[-1] = (runs[-1][0] + 1, valtype)
                else:
                    runs.append((1, valtype))
        start = len(self.buffer)
        if self.positions is not None:
            self.positions.add(start, lexer.offsets[lexer.position])
        encode_locals(self.buffer, runs)
        code.locals, code.hints = names, []
        yield from code.expression_steps()
        lexer.close()
        self.typeidxs.append(typeidx)
        self.starts.append(start)
        self.ends.append(len(self.buffer))
        if code.hints:
            self.hints[funcidx] = [(offset - start, hint) for offset, hint in code.hints]

    def _expr(self, single: bool = False) -> Expr:
        code = CodeParser(self.context, bytearray())
        code.expression(single)
        return Expr(bytes(code.out))

    def _table_field(self) -> None:
        tableidx = self.counts["table"]
        if self._inline("table"):
            return
        lexer, context = self.lexer, self.context
        addrtype = context.addrtype()
        if lexer.kind == "number":
            tabletype = TableType(context.limits(), context.reftype(), addrtype)
            self.tables.append(Table(tabletype, None if lexer.kind == ")" else self._expr()))
            lexer.close()
            return
        reftype = context.reftype()
        lexer.open("elem")
        elem = self._elem_init(reftype, lexer.kind == "(", (tableidx, self._zero(addrtype)))
        lexer.close()
        lexer.close()
        self.elems.append(elem)
        self.tables.append(Table(TableType(Limits(len(elem.init), len(elem.init)), reftype, addrtype)))

    def _zero(self, addrtype: AddressType) -> Expr:
        out = bytearray()
        encode_instruction(out, BY_NAME[f"{addrtype}.const"], (0,))
        encode_instruction(out, BY_NAME["end"], ())
        return Expr(bytes(out))

    def _memory_field(self) -> None:
        memidx = self.counts["memory"]
        if self._inline("memory"):
            return
        lexer, context = self.lexer, self.context
        at = lexer.position
        addrtype = context.addrtype()
        page_size_log2 = context.pagesize()
        if lexer.accept_form("data"):
            data = lexer.take_strings()
            lexer.close()
            size = (len(data) + (1 << page_size_log2) - 1) >> page_size_log2
            self.mems.append(MemType(Limits(size, size), addrtype, False, page_size_log2))
            self.datas.append(Data(data, (memidx, self._zero(addrtype))))
        else:
            lexer.position = at
            self.mems.append(context.memtype())
        lexer.close()

    def _global_field(self) -> None:
        if self._inline("global"):
            return
        globaltype = self.context.globaltype()
        self.globals.append(Global(globaltype, self._expr()))
        self.lexer.close()

    def _tag_field(self) -> None:
        if self._inline("tag"):
            return
        self.tags.append(TagType(self.context.typeuse({})[0]))
        self.lexer.close()

    def _export_field(self) -> None:
        lexer = self.lexer
        name = lexer.take_name()
        lexer.take("(")
        kind = lexer.take_keyword()
        if kind not in _EXTERNS:
            lexer.position -= 1
            raise lexer.unexpected()
        self.exports.append(Export(name, kind, self.context.index(kind)))
        lexer.close()
        lexer.close()

    def _start_field(self) -> None:
        if self.start is not None:
            raise self.lexer.error("multiple start sections")
        self.start = self.context.index("func")
        self.lexer.close()

    def _offset(self) -> Expr:
        lexer = self.lexer
        if lexer.accept_form("offset"):
            expr = self._expr()
            lexer.close()
            return expr
        return self._expr(single=True)

    def _elem_field(self) -> None:
        lexer, context = self.lexer, self.context
        lexer.accept_id()
        if lexer.accept("declare"):
            self.elems.append(self._elem_list("declarative"))
        elif lexer.at_form("table"):
            lexer.position += 2
            tableidx = context.index("table")
            lexer.close()
            self.elems.append(self._elem_list((tableidx, self._offset())))
        elif lexer.kind == "(" and not lexer.at_form("ref"):
            mode = (0, self._offset())
            if context.at_index() or lexer.kind == ")":
                self.elems.append(self._elem_init(_FUNC, False, mode))
            else:
                self.elems.append(self._elem_list(mode))
        elif context.at_index():
            # The oldest form names the table without parentheses.
            mode = (context.index("table"), self._offset())
            if lexer.at_keyword("func") or not (context.at_index() or lexer.kind == ")"):
                self.elems.append(self._elem_list(mode))
            else:
                self.elems.append(self._elem_init(_FUNC, False, mode))
        else:
            self.elems.append(self._elem_list("passive"))
        lexer.close()

    def _elem_list(self, mode: str | tuple[int, Expr]) -> Elem:
        if self.lexer.accept("func"):
            return self._elem_init(_FUNC, False, mode)
        return self._elem_init(self.context.reftype(), True, mode)

    def _elem_init(self, reftype: RefType, expressions: bool, mode: str | tuple[int, Expr]) -> Elem:
        lexer, context = self.lexer, self.context
        if not expressions:
            indices = array("I")
            while context.at_index():
                indices.append(context.index("func"))
            if reftype == _FUNC or (reftype == FUNCREF and Feature.REFERENCE_TYPES not in self.features):
                return Elem(_FUNC, indices, mode)
            return Elem(reftype, tuple(self._ref_func(index) for index in indices), mode)
        exprs: list[Expr] = []
        while lexer.kind == "(":
            if lexer.accept_form("item"):
                exprs.append(self._expr())
                lexer.close()
            else:
                exprs.append(self._expr(single=True))
        functions = _functions(exprs) if reftype == _FUNC else None
        return Elem(reftype, tuple(exprs) if functions is None else functions, mode)

    def _ref_func(self, index: int) -> Expr:
        out = bytearray()
        encode_instruction(out, BY_NAME["ref.func"], (index,))
        encode_instruction(out, BY_NAME["end"], ())
        return Expr(bytes(out))

    def _data_field(self) -> None:
        lexer, context = self.lexer, self.context
        lexer.accept_id()
        mode: tuple[int, Expr] | None = None
        memidx = 0
        if lexer.accept_form("memory"):
            memidx = context.index("memory")
            lexer.close()
            mode = (memidx, self._offset())
        elif context.at_index():
            mode = (context.index("memory"), self._offset())
        elif lexer.kind == "(":
            mode = (memidx, self._offset())
        self.datas.append(Data(lexer.take_strings(), mode))
        lexer.close()
