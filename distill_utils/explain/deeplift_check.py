"""Can captum's DeepLIFT explain this network? It is watched on one forward pass, and what has no rule is named.

captum attaches the Rescale rule to modules of a few exact types. Whatever else bends a signal silently falls back to
the plain gradient, and two such modules in a row lose one of their rules (captum issues 1082, 1104, 1367): the maps
look as they always do and are wrong. No trace is needed, so a forward pass may branch as it likes. What cannot be
seen from Python, such as a custom autograd function, is left to the numerical gate of explain.deeplift.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

RULES = (
    nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # nn.Softmax has a rule too, but one that depends on the size of the batch
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
# Functions as they are called, without underscores: "relu" is F.relu, torch.relu, x.relu() and x.relu_() alike.
_BENT_NAMES = """
    relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardtanh hardsigmoid prelu rrelu softplus
    softsign logsigmoid tanhshrink softshrink hardshrink threshold glu sigmoid tanh softmax log_softmax softmin
    gumbel_softmax clamp clip clamp_min clamp_max max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d lp_pool2d max amax min amin maximum minimum abs
    pow square sqrt rsqrt exp expm1 log log1p norm normalize layer_norm group_norm instance_norm rms_norm
    local_response_norm logsumexp erf sin cos sign prod var std reciprocal rdiv rpow multi_head_attention_forward
"""
_BENT = frozenset(_BENT_NAMES.split())
_PRODUCTS = {
    "mul", "multiply", "matmul", "mm", "bmm", "div", "divide", "true_divide", "einsum", "bilinear",
    "scaled_dot_product_attention",
}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}


class UnsupportedModel(ValueError):
    """DeepLIFT as captum computes it would be wrong for this network. The message names the module and the mend."""


@torch.enable_grad()
def check_supported(model: nn.Module, images: Tensor) -> None:
    """Raise UnsupportedModel, with the module and what to do, unless every bend of the signal has a rule.

    images: one or two, N×channels×H×W; the model sees them once and is left as it was.
    """
    _check_eval_mode(model)
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=True)}
    watch = _Watch(names)
    # With constant weights, a tensor depends on the images exactly when it asks for a gradient.
    constants = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    probe = images.detach().clone().requires_grad_().clone()
    with watch.modules(), watch:
        torch.func.functional_call(model, constants, (probe,))
    watch.check_shared_inputs()


def _check_eval_mode(model: nn.Module) -> None:
    if model.training:
        raise UnsupportedModel("the model is in train mode, where its outputs are random: call model.eval() first")
    for name, module in model.named_modules():
        if module.training:
            raise UnsupportedModel(f"'{name}' ({_kind(module)}) is in train mode: call model.eval() first")


class _Watch(TorchFunctionMode):
    """Sees every module and every function that a forward pass calls."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names = names
        self.inside: list = []
        self.called: dict = {}
        self.ruled: list = []  # (output tensor, module)
        # id of a tensor → (the tensor, kept so that its id stays its own, [(where, what uses it)])
        self.uses: dict = {}

    @contextlib.contextmanager
    def modules(self) -> Iterator[None]:
        handles = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module, inputs):
        self.inside.append(module)
        if not isinstance(module, RULES):
            return
        self._check_known(module)
        if id(module) in self.called:
            raise UnsupportedModel(
                f"{self._name(module)} is used more than once: give each use its own nn.{_kind(module)}()"
            )
        self.called[id(module)] = module
        self._used(inputs[0], module, self._name(module))
        for output, before in self.ruled:
            if output is inputs[0]:
                raise UnsupportedModel(
                    f"{self._name(module)} directly follows {self._name(before)}, and one of their two rules is lost "
                    "(captum issue 1104): use nn.AvgPool2d or a strided convolution, or put x.clone() between them"
                )

    def _check_known(self, module):
        if id(module) not in self.names:
            raise UnsupportedModel(
                f"an nn.{_kind(module)} is made inside forward of {self._name(self.inside[-2])}, where DeepLIFT "
                "cannot reach it: make it an attribute in __init__"
            )
        if type(module) not in RULES:
            raise UnsupportedModel(
                f"{self._name(module)} is a subclass, and DeepLIFT knows exact types only: use "
                f"nn.{next(rule.__name__ for rule in RULES if isinstance(module, rule))} itself"
            )
        if module._backward_hooks:
            raise UnsupportedModel(
                f"{self._name(module)} has a backward hook, which takes DeepLIFT's place: remove it"
            )
        if isinstance(module, _POOLS) and _overlaps(module):
            raise UnsupportedModel(
                f"{self._name(module)} has windows that overlap, whose parts overwrite each other: choose a stride "
                "of the kernel's size, or nn.AvgPool2d"
            )

    def _leave(self, module, inputs, output):
        self.inside.pop()
        if isinstance(module, RULES):
            self.ruled.append((output, module))
            if output is inputs[0]:  # done in place: whoever uses it from now on uses the output
                self.uses[object()] = self.uses.pop(id(output))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _plain_name(function)
        where = self.inside[-1] if self.inside else None
        if type(where) not in RULES:
            moving = [value for value in _tensors([args, kwargs]) if value.requires_grad]
            if name in _BENT and moving:
                raise UnsupportedModel(self._told(name, where))
            if name in _PRODUCTS and len(moving) > 1:
                raise UnsupportedModel(
                    f"{self._name(where)} multiplies or divides two signals ({name}), for which DeepLIFT's Rescale "
                    "rule has no share: explain this network with integrated_gradients"
                )
            if name in _DROPOUTS and kwargs.get("training", args[2] if len(args) > 2 else True):
                raise UnsupportedModel(
                    f"{self._name(where)} drops out at random in eval mode too (F.{name}): use an nn.Dropout module"
                )
        result = function(*args, **kwargs)
        if type(where) not in RULES and any(value.requires_grad for value in _tensors([result])):  # no mere question
            for value in moving:
                self._used(value, where, f"{name} in {self._name(where)}")
        return result

    def _used(self, tensor, where, what):
        self.uses.setdefault(id(tensor), (tensor, []))[1].append((where, what))

    def check_shared_inputs(self) -> None:
        """captum's rule replaces the whole gradient of a module's input, also what came from its other users."""
        for _, uses in self.uses.values():
            for module in [where for where, what in uses if type(where) in RULES]:
                others = [what for where, what in uses if where is not module]
                if others:
                    raise UnsupportedModel(
                        f"{self._name(module)} shares its input with {others[0]}, whose share would be lost: give "
                        "the module a copy, x.clone()"
                    )

    def _told(self, name: str, where: nn.Module | None) -> str:
        if "softmax" in name or name == "logsumexp":
            return f"{self._name(where)} computes a {name}: return logits, which DeepLIFT explains exactly"
        if where is not None and type(where).__module__.startswith("torch.nn.modules"):
            known = ", ".join(rule.__name__ for rule in RULES)
            return f"{self._name(where)} has no DeepLIFT rule: use one of {known}"
        mend = {"relu": "nn.ReLU()", "clamp": "nn.ReLU()", "clamp_min": "nn.ReLU()"}.get(name, "a module with a rule")
        if "pool" in name:
            mend = "nn.AvgPool2d, or nn.MaxPool2d after a convolution or BatchNorm"
        return (
            f"{self._name(where)} calls {name} as a function, which DeepLIFT cannot see: make it a module of its own "
            f"in __init__ ({mend})"
        )

    def _name(self, module: nn.Module | None) -> str:
        name = self.names.get(id(module), "")
        return f"'{name}' ({_kind(module)})" if name else "the model"


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _plain_name(function) -> str:
    name = getattr(function, "__name__", str(function))
    return {"truediv": "div"}.get(name.strip("_"), name.strip("_"))  # in-place and operator forms are the same thing


def _overlaps(pool: nn.Module) -> bool:
    def sizes(value):
        return value if isinstance(value, tuple) else (value,) * 3

    return any(size > stride for size, stride in zip(sizes(pool.kernel_size), sizes(pool.stride), strict=False))


def _tensors(values) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
