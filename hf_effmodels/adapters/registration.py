"""Adding a method to peft from outside."""

import peft
from peft.utils import PeftType, register_peft_method


def register(name: str, config_class: type, model_class: type) -> None:
    """Make the PEFT method `name` (lower case) known to peft; doing it twice is harmless.

    peft looks methods up in `PeftType`, an enumeration without a way to extend it, so a member is added by hand.

    Raises:
        RuntimeError: this peft's enumeration works in another way, or has a method of this name itself.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    member = _member(name.upper())
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if registered is None:
        register_peft_method(name=name, config_cls=config_class, model_cls=model_class)
    elif registered is not config_class:
        raise RuntimeError(f"peft {peft.__version__} has a method {name!r} already: {registered.__module__}.")


def _member(name: str) -> PeftType:
    if name in PeftType.__members__:
        return PeftType[name]
    try:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        member._sort_order_ = len(PeftType._member_names_)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        if not isinstance(getattr(PeftType, name, None), PeftType):
            type.__setattr__(PeftType, name, member)
        works = PeftType(name) is PeftType[name] is getattr(PeftType, name) and name in list(PeftType)
    except (AttributeError, TypeError) as error:
        raise RuntimeError(_unsupported(name)) from error
    if not works:
        raise RuntimeError(_unsupported(name))
    return member


def _unsupported(name: str) -> str:
    return (
        f"peft {peft.__version__}: the method {name} could not be added to peft.PeftType, which works in another way "
        "than in peft 0.21; use that version."
    )
