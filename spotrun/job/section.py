"""What the sections of the job file have in common: frozen, strict about names, and wrong in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spotrun.errors import SpecError
from spotrun.job.sentence import sentences

__all__ = ["Section"]

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # pydantic gives it no public name


class _InSentences(ModelMetaclass):
    """Makes a spec written in Python fail in the same sentences as a job file. Inside of pydantic, where a section is
    one part of a whole, nothing is called and errors keep their paths."""

    if not TYPE_CHECKING:

        def __call__(cls, *args, **kwargs):  # noqa: N805  a metaclass
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as err:
                raise SpecError(sentences(err, cls, section=cls.section)) from None


class Section(BaseModel, metaclass=_InSentences):
    section: ClassVar[str] = ""  # its path in the job file

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)
