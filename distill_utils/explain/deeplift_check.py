"""Can captum's DeepLIFT explain this network? One forward pass is watched; an operation without a rule is named.

captum attaches the Rescale rule to modules of a few exact types. Any other nonlinearity silently falls back to the
plain gradient, and two supported modules in direct succession lose one of their rules (captum issues 1082, 1104,
1367): the maps look normal and are wrong. Only common mistakes are recognised here, so that the message can say how
to correct them. The completeness check in explain.deeplift finds the others.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

# nn.Softmax has a rule too, but one that depends on the size of the batch.
RULES = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
# Names without outer underscores: "relu" stands for F.relu, torch.relu, x.relu() and x.relu_().
_NONLINEAR = """
    relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardtanh hardsigmoid prelu rrelu softplus softsign
    logsigmoid tanhshrink softshrink hardshrink threshold glu sigmoid tanh softmax log_softmax softmin logsumexp
    clamp clip clamp_min clamp_max max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d lp_pool2d
    max amax min amin maximum minimum abs pow square sqrt rsqrt exp log log1p sin cos norm normalize std var
    layer_norm group_norm instance_norm rms_norm local_response_norm rdiv reciprocal multi_head_attention_forward
""".split()  # noqa: SIM905
_PRODUCTS = {"mul", "multiply", "matmul", "mm", "bmm", "div", "divide", "truediv", "einsum", "bilinear",
             "scaled_dot_product_attention"}


class UnsupportedModel(ValueError):
    """captum's DeepLIFT would be wrong for this network. The message names the place and what to do."""


@torch.enable_grad()
def check_supported(model: nn.Module, images: Tensor) -> None:
    """Raise UnsupportedModel, naming module and fix, where a forward pass breaks the Rescale rule (lesson 08).

    model: in eval mode, called once and left as it was; images: N×channels×H×W, one or two are enough.
    """
    model = copy.deepcopy(model).requires_grad_(False)  # now a gradient marks the tensors that depend on the images
    watch = _Watch({module: name for name, module in model.named_modules()})
    signal = images.detach().requires_grad_().clone()
    with register_module_forward_pre_hook(watch.enter), register_module_forward_hook(watch.leave), watch:
        model(signal)


class _Watch(TorchFunctionMode):
    """Checks every module and every function that a forward pass calls. names: of the model's modules."""

    def __init__(self, names: dict[nn.Module, str]):
        super().__init__()
        self.names = names
        self.running: list[nn.Module] = []  # modules whose forward has begun, the innermost last
        self.outputs: dict[nn.Module, Tensor] = {}  # of the modules with a rule

    def enter(self, module, inputs):
        self.running.append(module)
        if type(module) not in RULES:
            return
        if module in self.outputs:
            raise UnsupportedModel(
                f"{self._where()} is used more than once: give each use its own nn.{type(module).__name__}()"
            )
        for before, output in self.outputs.items():
            if output is inputs[0]:
                raise UnsupportedModel(
                    f"{self._where()} directly follows '{self.names[before]}' ({type(before).__name__}), and one of "
                    "the two rules is lost: use nn.AvgPool2d or a strided convolution, or put x.clone() between them"
                )

    def leave(self, module, inputs, output):
        self.running.pop()
        if type(module) in RULES:
            self.outputs[module] = output

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").strip("_")
        values = [*args, *kwargs.values()]
        signals = [value for value in values if isinstance(value, Tensor) and value.requires_grad]
        module = self.running[-1]
        has_rule = type(module) in RULES and module in self.names  # captum cannot reach one made inside forward
        if name in _NONLINEAR and signals and not has_rule:
            where = self._where()
            raise UnsupportedModel(f"{where} calls {name} outside a module with a DeepLIFT rule: {_fix(name)}")
        if name in _PRODUCTS and len(signals) > 1:
            raise UnsupportedModel(
                f"{self._where()} multiplies or divides two signals ({name}), for which DeepLIFT's Rescale rule is "
                "not defined: explain this network with integrated_gradients"
            )
        return function(*args, **kwargs)

    def _where(self) -> str:
        module = self.running[-1]
        name = self.names.get(module, "")
        return f"'{name}' ({type(module).__name__})" if name else "the model"


def _fix(function: str) -> str:
    if "softmax" in function or function == "logsumexp":
        return "return logits, which DeepLIFT explains exactly"
    if "pool" in function:
        return "use nn.AvgPool2d, or a module nn.MaxPool2d after a convolution or BatchNorm"
    if "norm" in function:
        return "use nn.BatchNorm2d, which is linear in eval mode"
    rules = ", ".join(f"nn.{rule.__name__}" for rule in RULES)
    return f"make it a module of its own in __init__, of exactly one of these types: {rules}"
