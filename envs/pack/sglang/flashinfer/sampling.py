"""Sampling is PyTorch's here: start the server with `--sampling-backend pytorch`."""


def min_p_sampling_from_probs(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("flashinfer is not in this pack: --sampling-backend pytorch")


top_k_top_p_sampling_from_probs = min_p_sampling_from_probs
