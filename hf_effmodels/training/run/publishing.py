"""A trained model on the Hub: what a model needs, and nothing else of the output folder."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from ...hub.export import is_portable
from ...registry import is_in_halves

#: Folder of the output folder with the model as `hf-effmodels publish` takes it, of models of this package.
HUB_FOLDER = "hub"


def is_own(model) -> bool:
    """Whether a model's code is this package's, so that a folder for the Hub is made of it (`hub.export`). One that is
    made around somebody else's network is not."""
    if not type(model).__module__.startswith("hf_effmodels."):
        return False
    return not is_in_halves(model.config.model_type) or is_portable(model.config.network["model_type"])


def find_repository(name: str | None, output: Path, token: str | None) -> str:
    """The repository's full name, of an account that the token opens; nothing is made there yet.

    Args:
        name: of the repository, with or without the account's or an organisation's; the output folder's by default.

    Raises:
        PermissionError: there is no token, or the Hub does not know it. ConnectionError: the Hub cannot be reached.
    """
    token = token or get_token()
    if not token:
        raise PermissionError(
            "--push_to_hub: there is no token; run `hf auth login`, set HF_TOKEN, or pass --hub_token."
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise PermissionError("--hub_token: it has characters in it that no token has, such as a space or a new line.")
    try:
        account = HfApi(token=token).whoami()["name"]
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise PermissionError("--push_to_hub: the Hub does not know this token.") from None
        raise ConnectionError(f"--push_to_hub: the Hub cannot be asked whose the token is ({error}).") from error
    except OSError as error:
        raise ConnectionError(f"--push_to_hub: the Hub cannot be reached ({error}).") from error
    name = name or output.absolute().name
    return name if "/" in name else f"{account}/{name}"


def publish_run(
    output: Path,
    repo_id: str,
    *,
    exported: bool,
    token: str | None,
    private: bool,
    revision: str | None,
    message: str,
) -> str:
    """Upload the model that a finished run has left in its output folder as `hf_effmodels.hub.publish` does it, in one
    commit; returns its address.

    Args:
        exported: whether it is a model of this package, which is published from the folder `hub`. Of another one the
            configuration, the weights, the processor and the card in the output folder go, by the same allow-list: no
            checkpoints, no states of the training, no logs, nothing that somebody else has put there.
    """
    from ...hub import publish

    folder = output / HUB_FOLDER if exported else output
    commit = publish(folder, repo_id, token=token, private=private, revision=revision, commit_message=message)
    return commit.commit_url
