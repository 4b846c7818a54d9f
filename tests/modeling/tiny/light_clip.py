"""A ResNet of two stages and a text tower of three layers over a vocabulary of 99."""

TINY = {
    "light_clip": {
        "vision_config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "layer_type": "basic",
            "image_size": 32,
        },
        "text_config": {
            "vocab_size": 99,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
            "bos_token_id": 97,
            "eos_token_id": 98,
            "pad_token_id": 98,
        },
        "projection_dim": 12,
    }
}
