"""Folding, extended: binary networks that compute on bits."""

from .reparameterization import ReparameterizationMixin

#: What transformers knows the packing by, once this package is imported.
METHOD = "packed_binary"


def _registered() -> dict:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    return AUTO_QUANTIZER_MAPPING


class DeploymentMixin(ReparameterizationMixin):
    """Gives a network with binary layers the method `deploy()`."""

    def deploy(self):
        """Fold the network, `reparameterize()`, and pack its binary weights to one bit each; returns the model itself.

        Outputs stay the same to rounding. `save_pretrained` writes the bits, and `from_pretrained` loads them where
        hf_effmodels is imported.

        Raises:
            RuntimeError: in training mode, or hf_effmodels is not imported (code from the Hub by itself).
            ValueError: packed already, or quantised otherwise.
        """
        if getattr(self.config, "quantization_config", None) is not None:
            raise ValueError(f"deploy: this {type(self).__name__} is packed or quantised already.")
        if (quantizer := _registered().get(METHOD)) is None:
            raise RuntimeError("deploy: packed layers are part of hf_effmodels; install and import it.")
        return quantizer({"quant_method": METHOD}).pack(self.reparameterize())

    def post_init(self):
        super().post_init()
        quantized = getattr(self.config, "quantization_config", None) or {}
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        if method == METHOD and METHOD not in _registered():
            raise ImportError(
                f"{type(self).__name__}: the weights of this checkpoint are packed to bits; install hf_effmodels and "
                "import it to load them."
            )
