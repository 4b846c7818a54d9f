"""A model in a browser: `hf-effmodels demo MODEL`, and the same file as a Space.

`app.py` is that file. It stands alone: a Space has it beside `images.py` and `texts.py`, and needs gradio and
transformers only.
"""

#: The tasks that there is an app for: the keys of `app.APPS`, for those who do without gradio.
APP_TASKS = (
    "image-classification",
    "object-detection",
    "image-segmentation",
    "mask-generation",
    "image-text-to-text",
    "super-resolution",
    "text-generation",
    "text-classification",
)
