"""Weights of language models as integers of 8 or 4 bits, in ONNX: the quantiser that transformers' exporter runs."""

import logging

from transformers.exporters import ExportFormat, ExportQuantizer

#: Inputs of a layer whose weights share a scale and a zero point.
BLOCK = 32
#: Bits -> `accuracy_level` of the product. With 8 bits the inputs are rounded to 8 bits, too, in blocks (4): ONNX
#: Runtime has no kernel for real ones and unpacks all weights for each token, which is some twenty times slower.
ACCURACY_LEVELS = {8: 4}


def quantizer_of(precision: str) -> ExportQuantizer:
    """The quantiser of a precision, for the configuration of transformers' ONNX exporter."""
    return BlockQuantizer(8 if precision == "int8" else 4)


class BlockQuantizer(ExportQuantizer):
    """Weights of linear layers in blocks of `BLOCK` inputs, rounded to the nearest of 2^bits levels, by ONNX Runtime's
    quantiser; of 4 bits what they are multiplied with stays as it is (`MatMulNBits`), see `ACCURACY_LEVELS`."""

    supported_formats = (ExportFormat.ONNX,)
    required_packages = ("onnx", "onnx_ir", "onnxruntime")

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def quantize(self, model, sample_inputs, export_format):
        """See `ExportQuantizer`; `model` is an `onnx_ir.Model`."""
        import onnx_ir

        handlers, level = logging.root.handlers[:], logging.root.level
        from onnxruntime.quantization import matmul_nbits_quantizer

        # The import sets up everybody's logging, to tell of every node.
        logging.root.handlers[:], logging.root.level = handlers, level
        matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
        quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
            onnx_ir.to_proto(model), bits=self.bits, block_size=BLOCK, accuracy_level=ACCURACY_LEVELS.get(self.bits)
        )
        quantizer.model.replace_gemm_with_matmul()  # that is what it finds
        quantizer.process()
        return onnx_ir.from_proto(quantizer.model.model)
