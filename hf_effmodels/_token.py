"""The token for the Hub: the one that is given, or the one that is stored; looked at before torch is there."""

import re

from huggingface_hub import get_token


def stated_token(token: str | None) -> str:
    """The token that is given or stored; PermissionError where there is none, ValueError where it can be none."""
    token = (token or get_token() or "").strip()
    if not token:
        raise PermissionError(
            "token: none was given and none is stored. Run `hf auth login`, set HF_TOKEN, or pass token=…; make one "
            "with write access at https://huggingface.co/settings/tokens"
        )
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("token: it has characters that no token has, such as white space (it is not shown here)")
    return token
