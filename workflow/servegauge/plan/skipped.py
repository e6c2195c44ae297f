"""Why a launch or a cell cannot work, as far as that is known before anything is submitted."""

from __future__ import annotations

from servegauge.contract.config_types import Prompts, Study
from servegauge.contract.spec import Launch, Load
from servegauge.frameworks import framework
from servegauge.plan import fit


def launch_skipped(launch: Launch, study: Study) -> str | None:
    """Why `launch` cannot work, known before anything is submitted; None where there is no reason against it."""
    platform, layout, adapter = launch.platform, launch.layout, framework(launch.framework)
    per_node, nodes = platform["gpus_per_node"], platform["nodes"]
    shape = study["shapes"][launch.model["name"]]
    here = platform.get("frameworks", {}).get(launch.framework, {})
    if "@" in launch.framework and launch.framework not in platform.get("frameworks", {}):
        return f"the platform {platform['name']} does not say how to start {launch.framework} (its `frameworks`)"
    if adapter.needs_gpu and not per_node and here.get("device") != "cpu":
        return f"{adapter.title} needs a GPU, the platform {platform['name']} has none"
    if per_node and layout.gpus > per_node * nodes:
        have = f"{per_node} on one node" if nodes == 1 else f"{per_node} on each of {nodes} nodes"
        return f"{layout.words()} takes {layout.gpus} GPUs, the platform {platform['name']} has {have}"
    if layout.gpus_per_instance % layout.ep:
        return f"ep{layout.ep} does not divide the {layout.gpus_per_instance} GPUs of a server ({layout.words()})"
    if layout.ep > 1 and shape.get("experts") == 0:
        return f"the model {launch.model['name']} has no experts to spread over ep{layout.ep}"
    heads = shape.get("heads")
    if heads and adapter.weights == "hf" and heads % layout.tp:
        return f"the model {launch.model['name']} has {heads} attention heads, which tp{layout.tp} does not divide"
    fraction = study.get("planning", {}).get("memory_fraction", fit.MEMORY_FRACTION)
    ours = adapter.weights != "none"  # the memory of a server that runs already is not ours to count
    return adapter.unsupported(launch) or (fit.too_large(launch, shape, fraction) if ours else None)


def cell_skipped(launch: Launch, prompts: Prompts, load: Load) -> str | None:
    """Why this load cannot work on `launch`; None where there is no reason against it."""
    adapter = framework(launch.framework)
    if load.endpoint not in adapter.endpoints:
        return f"{adapter.title} has no endpoint {load.endpoint} (it has: {', '.join(adapter.endpoints)})"
    if "images" in prompts and load.endpoint != "chat":
        return f"the prompts of {prompts['name']} have images, which only chat messages hold: set load.endpoint to chat"
    if load.lora_mix and set(load.lora_mix) != {"base"} and launch.options.get("lora"):
        if not adapter.adapter_field:
            return f"a request to {adapter.title} cannot choose a LoRA adapter"
        if missing := sorted(set(load.lora_mix) - {"base", *launch.options["lora"]}):
            return f"this server is started without the LoRA adapter {', '.join(missing)}"
    if load.cache == "warm" and launch.options.get("prefix_cache") is False:
        return "cache: warm needs the server option prefix_cache: true"
    if load.capacity is not None and load.cache == "warm":
        return "cache: warm is for one load: a search for the capacity sends the same prompts at each rate"
    if load.capacity is not None and prompts.get("kind") in ("sessions", "conversations"):
        return "a search for the capacity sends single requests: give a set of prompts, or a rate of sessions"
    context = launch.options.get("context_tokens")
    longest = fit.longest_request(prompts, load)
    if context and longest and longest > context:
        return f"prompt and answer take up to {longest} tokens, the server's context_tokens is {context}"
    return None
