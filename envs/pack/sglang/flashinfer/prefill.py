"""Attention of images: not in this pack."""


def cudnn_batch_prefill_with_kv_cache(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("flashinfer is not in this pack: no attention of images by cuDNN")
