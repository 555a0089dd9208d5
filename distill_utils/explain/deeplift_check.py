"""Can captum's DeepLIFT explain this network? One forward pass is watched; an operation without a rule is named.

captum attaches the Rescale rule to modules of a few exact types. Any other nonlinearity silently falls back to the
plain gradient, and two supported modules in direct succession lose one of their rules (captum issues 1082, 1104,
1367): the maps look normal and are wrong. No tracing is needed, so a forward pass may branch freely. What Python
cannot see, such as a custom autograd function, is left to the numerical check in explain.deeplift.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
# nn.Softmax has a rule too, but one that depends on the size of the batch.
RULES = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, *_POOLS)
# Names without underscores: "relu" stands for F.relu, torch.relu, x.relu() and x.relu_().
_NONLINEAR = """
    relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardtanh hardsigmoid prelu rrelu softplus
    softsign logsigmoid tanhshrink softshrink hardshrink threshold glu sigmoid tanh softmax log_softmax softmin
    gumbel_softmax clamp clip clamp_min clamp_max max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d lp_pool2d max amax min amin maximum minimum abs
    pow square sqrt rsqrt exp expm1 log log1p norm normalize layer_norm group_norm instance_norm rms_norm
    local_response_norm logsumexp erf sin cos sign prod var std reciprocal rdiv rpow multi_head_attention_forward
"""
_NONLINEAR_FUNCTIONS = frozenset(_NONLINEAR.split())
_PRODUCTS = {
    "mul", "multiply", "matmul", "mm", "bmm", "div", "divide", "true_divide", "einsum", "bilinear",
    "scaled_dot_product_attention",
}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}


class UnsupportedModel(ValueError):
    """captum's DeepLIFT would be wrong for this network. The message names the module and the fix."""


@torch.enable_grad()
def check_supported(model: nn.Module, images: Tensor) -> None:
    """Raise UnsupportedModel, naming the module and the fix, unless every nonlinearity has a rule (lesson 08).

    model: in eval mode; images: one or two, N×channels×H×W. The model is called once and left as it was.
    """
    watch = _Watch({id(module): name for name, module in model.named_modules()})
    # With constant weights, a tensor requires a gradient exactly when it depends on the images.
    constants = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    probe = images.detach().clone().requires_grad_().clone()
    hooks = [register_module_forward_pre_hook(watch.enter), register_module_forward_hook(watch.leave)]
    try:
        with watch:
            torch.func.functional_call(model, constants, (probe,))
    finally:
        for hook in hooks:
            hook.remove()
    watch.check_shared_inputs()


class _Watch(TorchFunctionMode):
    """Sees every module and every function that a forward pass calls."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names = names
        self.stack: list[nn.Module] = []  # the modules whose forward is running
        self.outputs: list[tuple[Tensor, nn.Module]] = []  # of the modules with a rule
        # id of a tensor → (the tensor, kept alive so that its id is not reused, [(module, description of the use)])
        self.uses: dict = {}

    def enter(self, module, inputs):
        self.stack.append(module)
        if not isinstance(module, RULES):
            return
        self._check_module(module)
        self._add_use(inputs[0], module, self._name(module))
        for output, before in self.outputs:
            if before is module:
                raise UnsupportedModel(
                    f"{self._name(module)} is used more than once: give each use its own nn.{_kind(module)}()"
                )
            if output is inputs[0]:
                raise UnsupportedModel(
                    f"{self._name(module)} directly follows {self._name(before)}, and one of their two rules is lost "
                    "(captum issue 1104): use nn.AvgPool2d or a strided convolution, or put x.clone() between them"
                )

    def _check_module(self, module):
        if id(module) not in self.names:
            raise UnsupportedModel(
                f"an nn.{_kind(module)} is created inside forward of {self._name(self.stack[-2])}, where DeepLIFT "
                "cannot reach it: make it an attribute in __init__"
            )
        if type(module) not in RULES:
            base = next(rule for rule in RULES if isinstance(module, rule))
            raise UnsupportedModel(
                f"{self._name(module)} is a subclass, but DeepLIFT supports exact types only: use nn.{base.__name__}"
            )
        if module._backward_hooks:
            raise UnsupportedModel(f"{self._name(module)} has a backward hook, which replaces DeepLIFT's: remove it")
        if isinstance(module, _POOLS) and _overlaps(module):
            raise UnsupportedModel(
                f"{self._name(module)} has overlapping windows, whose contributions overwrite each other: set the "
                "stride to the kernel size, or use nn.AvgPool2d"
            )

    def leave(self, module, inputs, output):
        self.stack.pop()
        if isinstance(module, RULES):
            self.outputs.append((output, module))
            if output is inputs[0]:  # in place: later uses of this tensor are uses of the output
                self.uses[object()] = self.uses.pop(id(output))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        module = self.stack[-1] if self.stack else None
        if type(module) in RULES:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "").strip("_")  # in-place and operator forms are the same function
        name = "div" if name == "truediv" else name
        signals = [value for value in _tensors([args, kwargs]) if value.requires_grad]  # tensors made of the images
        if name in _NONLINEAR_FUNCTIONS and signals:
            raise UnsupportedModel(f"{self._name(module)} {_advice(name, module)}")
        if name in _PRODUCTS and len(signals) > 1:
            raise UnsupportedModel(
                f"{self._name(module)} multiplies or divides two signals ({name}), for which DeepLIFT's Rescale rule "
                "is not defined: explain this network with integrated_gradients"
            )
        if name in _DROPOUTS and kwargs.get("training", args[2] if len(args) > 2 else True):
            raise UnsupportedModel(
                f"{self._name(module)} applies dropout in eval mode, too (F.{name}): use an nn.Dropout module"
            )
        result = function(*args, **kwargs)
        if any(value.requires_grad for value in _tensors([result])):  # not a query such as x.shape
            for value in signals:
                self._add_use(value, module, f"{name} in {self._name(module)}")
        return result

    def _add_use(self, tensor, module, description):
        self.uses.setdefault(id(tensor), (tensor, []))[1].append((module, description))

    def check_shared_inputs(self) -> None:
        """captum's rule replaces the whole gradient of a module's input, including what other uses contributed."""
        for _, uses in self.uses.values():
            for module in [user for user, _ in uses if type(user) in RULES]:
                others = [description for user, description in uses if user is not module]
                if others:
                    raise UnsupportedModel(
                        f"{self._name(module)} shares its input with {others[0]}, whose contribution would be "
                        "dropped: give the module a copy, x.clone()"
                    )

    def _name(self, module: nn.Module | None) -> str:
        name = self.names.get(id(module), "")
        return f"'{name}' ({_kind(module)})" if name else "the model"


def _advice(name: str, module: nn.Module | None) -> str:
    """What is wrong with a nonlinear function called in this module's forward, and how to fix it."""
    if "softmax" in name or name == "logsumexp":
        return f"computes a {name}: return logits, which DeepLIFT explains exactly"
    if module is not None and type(module).__module__.startswith("torch.nn.modules"):
        return f"has no DeepLIFT rule: use one of {', '.join(rule.__name__ for rule in RULES)}"
    fix = "nn.ReLU()" if name in ("relu", "clamp", "clamp_min") else "a module with a rule"
    if "pool" in name:
        fix = "nn.AvgPool2d, or nn.MaxPool2d after a convolution or BatchNorm"
    return f"calls {name} as a function, which DeepLIFT cannot see: make it a module of its own in __init__ ({fix})"


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _overlaps(pool: nn.Module) -> bool:
    options = pool.kernel_size, pool.stride
    sizes, strides = (value if isinstance(value, tuple) else (value,) * 3 for value in options)
    return any(size > stride for size, stride in zip(sizes, strides, strict=False))


def _tensors(values) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
