"""Grouped queries, two pyramid levels, the last id of the vocabulary as image token."""

TINY = {
    "adem_vl": {
        "text_config": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 99,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 8,
            "image_size": 32,
        },
        "pool_sizes": [4, 2],
        "projector_hidden_size": 8,
        "vision_adapter_dim": 4,
        "image_token_id": 98,
    }
}
