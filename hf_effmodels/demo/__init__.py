"""A model in a browser: `hf-effmodels demo MODEL`, and the same file as a Space.

`app.py` is that file. It stands alone: a Space has it beside `images.py` and needs gradio and transformers only.
"""
