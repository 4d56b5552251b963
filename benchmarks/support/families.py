"""Families beyond image classifiers, built small and offline: name -> maker of (model, inputs).

Each maker is given a factor for its widths: 1 builds the network that is pruned, 0.5 the same one
at half of every width that is a matter of choice. What the second has fewer parameters is what a
count by hand says that half of the channels should take.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, Any]
Maker = Callable[[float], Built]


def _edges(nodes: int = 12) -> torch.Tensor:
    return torch.randint(0, nodes, (2, 40), generator=torch.Generator().manual_seed(0))


def _graph(layer: str, **options: Any) -> Maker:
    """Two layers of PyTorch Geometric's and a classifier of nodes."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            from torch_geometric import nn as layers

            kind = getattr(layers, layer)
            heads = options.get("heads", 1)
            if layer == "GINConv":
                self.first = kind(_mlp(8, width))
                self.second = kind(_mlp(width, width))
            elif layer == "EdgeConv":
                self.first = kind(_mlp(16, width))
                self.second = kind(_mlp(2 * width, width))
            else:
                self.first = kind(8, width, **options)
                self.second = kind(width * heads, width, **options)
            self.head = nn.Linear(width * heads, 4)

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.first(x, edges).relu(), edges).relu())

    return lambda half: (Net(int(32 * half)), (torch.rand(12, 8), _edges()))


def _mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


def _diffusers(kind: str, inputs: Callable[[], Any], **sizes: Any) -> Maker:
    def make(half: float) -> Built:
        import diffusers

        fixed = {k: v for k, v in sizes.items() if not k.startswith("w_")}
        scaled = {
            k[2:]: tuple(int(n * half) for n in v) if isinstance(v, tuple) else int(v * half)
            for k, v in sizes.items()
            if k.startswith("w_")
        }
        return getattr(diffusers, kind)(**fixed, **scaled), inputs()

    return make


def _monai(kind: str, shape: tuple[int, ...], **sizes: Any) -> Maker:
    def make(half: float) -> Built:
        from monai.networks import nets

        fixed = {k: v for k, v in sizes.items() if not k.startswith("w_")}
        scaled = {
            k[2:]: tuple(int(n * half) for n in v) if isinstance(v, tuple) else int(v * half)
            for k, v in sizes.items()
            if k.startswith("w_")
        }
        return getattr(nets, kind)(**fixed, **scaled), torch.rand(*shape)

    return make


def _hf(model: str, config: str, inputs: Callable[[], Any], **sizes: Any) -> Maker:
    def make(half: float) -> Built:
        import transformers

        fixed = {k: v for k, v in sizes.items() if not k.startswith("w_")}
        scaled = {
            k[2:]: type(v)(int(n * half) for n in v)
            if isinstance(v, (tuple, list))
            else int(v * half)
            for k, v in sizes.items()
            if k.startswith("w_")
        }
        made = getattr(transformers, config)(**fixed, **scaled)
        return getattr(transformers, model)(made), inputs()

    return make


def _tokens() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 100, (1, 16)), "use_cache": False}


def _words() -> dict[str, Any]:
    return {"input_ids": torch.randint(0, 100, (1, 16))}


def _pairs() -> dict[str, Any]:
    return {**_words(), "decoder_input_ids": torch.randint(0, 100, (1, 8)), "use_cache": False}


def _sound() -> dict[str, Any]:
    return {"input_values": torch.randn(1, 4000)}


def _mel() -> dict[str, Any]:
    return {
        "input_features": torch.randn(1, 16, 200),
        "decoder_input_ids": torch.ones(1, 4).long(),
        "use_cache": False,
    }


def _clip() -> dict[str, Any]:
    return {**_words(), "pixel_values": torch.randn(1, 3, 32, 32)}


def _frames() -> dict[str, Any]:
    return {"pixel_values": torch.randn(1, 4, 3, 32, 32)}


def _pixels(size: int = 64) -> Callable[[], dict[str, Any]]:
    return lambda: {"pixel_values": torch.randn(1, 3, size, size)}


LM = {
    "vocab_size": 100,
    "w_hidden_size": 64,
    "w_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GQA = dict(**LM, num_key_value_heads=2, w_head_dim=16, max_position_embeddings=64)
SPEECH = {
    "w_hidden_size": 64,
    "w_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "w_conv_dim": (32, 32),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
VISION = {
    "w_hidden_size": 64,
    "w_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MOE = {"num_experts_per_tok": 2}


def _point_net(half: float) -> Built:
    width = int(32 * half)

    class PointNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.local = nn.Sequential(
                nn.Conv1d(3, width, 1),
                nn.BatchNorm1d(width),
                nn.ReLU(),
                nn.Conv1d(width, 2 * width, 1),
                nn.BatchNorm1d(2 * width),
                nn.ReLU(),
            )
            self.joint = nn.Sequential(
                nn.Conv1d(4 * width, 2 * width, 1), nn.ReLU(), nn.Conv1d(2 * width, 5, 1)
            )

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            x = self.local(points.transpose(1, 2))
            whole = x.max(2, keepdim=True).values.expand_as(x)
            return self.joint(torch.cat([x, whole], 1)).transpose(1, 2)

    return PointNet(), torch.rand(2, 30, 3)


def _dgcnn(half: float) -> Built:
    width = int(32 * half)

    class DGCNN(nn.Module):
        """Neighbours in the space of features, found anew in each layer."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(6, width, 1)
            self.second = nn.Conv2d(2 * width, width, 1)
            self.head = nn.Linear(2 * width, 5)

        @staticmethod
        def edges(x: torch.Tensor, k: int = 4) -> torch.Tensor:
            near = torch.cdist(x, x).topk(k, largest=False).indices
            batch = torch.arange(len(x))[:, None, None]
            there = x[batch, near]
            here = x[:, :, None].expand_as(there)
            return torch.cat([here, there - here], 3).permute(0, 3, 1, 2)

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            a = self.first(self.edges(points)).relu().max(3).values.transpose(1, 2)
            b = self.second(self.edges(a)).relu().max(3).values.transpose(1, 2)
            return self.head(torch.cat([a, b], 2).max(1).values)

    return DGCNN(), torch.rand(2, 20, 3)


def _pillars(half: float) -> Built:
    width = int(32 * half)

    class Pillars(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point = nn.Linear(4, width)
            self.neck = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 3, 2, 1),
                nn.ReLU(),
            )
            self.head = nn.Conv2d(2 * width, 7, 1)

        def forward(self, points: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            found = self.point(points).relu().max(1).values
            canvas = found.new_zeros(found.shape[1], 64)
            canvas[:, places] = found.t()
            return self.head(self.neck(canvas.view(1, -1, 8, 8)))

    return Pillars(), (torch.rand(10, 6, 4), torch.randperm(64)[:10])


def _yolo(half: float) -> Built:
    """The blocks of one-stage detectors: split, bottlenecks, concatenation, pyramid pooling."""
    w = int(32 * half)

    class Conv(nn.Sequential):
        def __init__(self, a: int, b: int, k: int = 1, s: int = 1) -> None:
            super().__init__(
                nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b), nn.SiLU()
            )

    class C2f(nn.Module):
        def __init__(self, a: int, b: int, n: int = 2) -> None:
            super().__init__()
            self.half = b // 2
            self.cv1, self.cv2 = Conv(a, b), Conv((2 + n) * self.half, b)
            self.m = nn.ModuleList(
                nn.Sequential(Conv(self.half, self.half, 3), Conv(self.half, self.half, 3))
                for _ in range(n)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = list(self.cv1(x).chunk(2, 1))
            for block in self.m:
                y.append(y[-1] + block(y[-1]))
            return self.cv2(torch.cat(y, 1))

    class SPPF(nn.Module):
        def __init__(self, a: int) -> None:
            super().__init__()
            self.cv1, self.cv2, self.pool = Conv(a, a // 2), Conv(2 * a, a), nn.MaxPool2d(5, 1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.cv1(x)
            a = self.pool(x)
            b = self.pool(a)
            return self.cv2(torch.cat((x, a, b, self.pool(b)), 1))

    class Yolo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(Conv(3, w, 3, 2), Conv(w, 2 * w, 3, 2), C2f(2 * w, 2 * w))
            self.deep = nn.Sequential(Conv(2 * w, 4 * w, 3, 2), C2f(4 * w, 4 * w), SPPF(4 * w))
            self.up = C2f(6 * w, 2 * w)
            self.box = nn.ModuleList(
                nn.Sequential(Conv(c, 2 * w, 3), nn.Conv2d(2 * w, 64, 1)) for c in (2 * w, 4 * w)
            )
            self.cls = nn.ModuleList(
                nn.Sequential(Conv(c, 2 * w, 3), nn.Conv2d(2 * w, 10, 1)) for c in (2 * w, 4 * w)
            )

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            a = self.down(x)
            b = self.deep(a)
            a = self.up(torch.cat([nn.functional.interpolate(b, scale_factor=2.0), a], 1))
            return [
                torch.cat([box(y), cls(y)], 1)
                for box, cls, y in zip(self.box, self.cls, (a, b), strict=True)
            ]

    return Yolo(), torch.rand(1, 3, 64, 64)


def _steps(*shape: int, context: bool = False) -> Callable[[], Any]:
    def make() -> Any:
        given = {"sample": torch.randn(*shape), "timestep": torch.tensor(3)}
        if context:
            given["encoder_hidden_states"] = torch.randn(1, 5, 32)
        return given

    return make


FAMILIES: dict[str, Maker] = {
    "graph:GCN": _graph("GCNConv"),
    "graph:SAGE": _graph("SAGEConv"),
    "graph:GAT": _graph("GATConv", heads=2),
    "graph:GATv2": _graph("GATv2Conv", heads=2),
    "graph:GIN": _graph("GINConv"),
    "graph:EdgeConv": _graph("EdgeConv"),
    "graph:Transformer": _graph("TransformerConv", heads=2),
    "graph:Cheb": _graph("ChebConv", K=2),
    "graph:ResGated": _graph("ResGatedGraphConv"),
    "points:PointNet": _point_net,
    "points:DGCNN": _dgcnn,
    "points:Pillars": _pillars,
    "detector:YOLO": _yolo,
    "diffusers:UNet2D": _diffusers(
        "UNet2DModel",
        _steps(1, 3, 32, 32),
        sample_size=32,
        w_block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ),
    "diffusers:UNet2DCondition": _diffusers(
        "UNet2DConditionModel",
        _steps(1, 4, 16, 16, context=True),
        sample_size=16,
        w_block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "diffusers:AutoencoderKL": _diffusers(
        "AutoencoderKL",
        lambda: torch.randn(1, 3, 32, 32),
        w_block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ),
    "diffusers:VQModel": _diffusers(
        "VQModel",
        lambda: torch.randn(1, 3, 32, 32),
        w_block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        num_vq_embeddings=16,
    ),
    "diffusers:UNet1D": _diffusers(
        "UNet1DModel",
        _steps(1, 14, 32),
        in_channels=14,
        out_channels=14,
        w_block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownResnetBlock1D",) * 2,
        up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        time_embedding_type="positional",
        use_timestep_embedding=True,
        act_fn="mish",
        layers_per_block=1,
    ),
    "monai:UNet": _monai(
        "UNet",
        (1, 1, 16, 16, 16),
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        w_channels=(16, 32, 64),
        strides=(2, 2),
        num_res_units=2,
    ),
    "monai:BasicUNet": _monai(
        "BasicUNet",
        (1, 1, 32, 32),
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        w_features=(16, 16, 32, 64, 64, 16),
    ),
    "monai:AttentionUnet": _monai(
        "AttentionUnet",
        (1, 1, 32, 32),
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        w_channels=(16, 32, 64),
        strides=(2, 2),
    ),
    "monai:SegResNet": _monai(
        "SegResNet",
        (1, 1, 16, 16, 16),
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        w_init_filters=16,
        blocks_down=(1, 1, 1),
        blocks_up=(1, 1),
    ),
    "monai:DynUNet": _monai(
        "DynUNet",
        (1, 1, 32, 32),
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        w_filters=(16, 32, 64),
    ),
    "monai:VNet": _monai("VNet", (1, 1, 16, 16, 16), spatial_dims=3, in_channels=1, out_channels=2),
    "monai:UNETR": _monai(
        "UNETR",
        (1, 1, 32, 32),
        in_channels=1,
        out_channels=2,
        img_size=(32, 32),
        spatial_dims=2,
        w_feature_size=16,
        w_hidden_size=64,
        w_mlp_dim=128,
        num_heads=4,
    ),
    "monai:SwinUNETR": _monai(
        "SwinUNETR",
        (1, 1, 64, 64),
        in_channels=1,
        out_channels=2,
        spatial_dims=2,
        w_feature_size=24,
        depths=(1, 1, 1, 1),
        num_heads=(2, 4, 4, 4),
    ),
    "monai:HighResNet": _monai(
        "HighResNet", (1, 1, 16, 16, 16), spatial_dims=3, in_channels=1, out_channels=2
    ),
    "speech:Wav2Vec2": _hf("Wav2Vec2ForCTC", "Wav2Vec2Config", _sound, **SPEECH),
    "speech:HuBERT": _hf("HubertForCTC", "HubertConfig", _sound, **SPEECH),
    "speech:WavLM": _hf("WavLMForCTC", "WavLMConfig", _sound, **SPEECH),
    "speech:UniSpeech": _hf("UniSpeechForCTC", "UniSpeechConfig", _sound, **SPEECH),
    "speech:Data2Vec": _hf(
        "Data2VecAudioForCTC",
        "Data2VecAudioConfig",
        _sound,
        **{**SPEECH, "conv_pos_kernel_size": 5},
    ),
    "speech:Whisper": _hf(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _mel,
        vocab_size=100,
        num_mel_bins=16,
        w_d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        w_encoder_ffn_dim=128,
        w_decoder_ffn_dim=128,
        max_source_positions=100,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    "speech:AST": _hf(
        "ASTForAudioClassification",
        "ASTConfig",
        lambda: {"input_values": torch.randn(1, 64, 32)},
        **VISION,
        max_length=64,
        num_mel_bins=32,
    ),
    "experts:Mixtral": _hf(
        "MixtralForCausalLM",
        "MixtralConfig",
        _tokens,
        **GQA,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "experts:Qwen2-MoE": _hf(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        _tokens,
        **LM,
        num_key_value_heads=2,
        num_experts=4,
        **MOE,
        w_moe_intermediate_size=64,
        w_shared_expert_intermediate_size=64,
    ),
    "experts:Qwen3-MoE": _hf(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _tokens,
        **GQA,
        num_experts=4,
        **MOE,
        w_moe_intermediate_size=64,
    ),
    "experts:OLMoE": _hf(
        "OlmoeForCausalLM",
        "OlmoeConfig",
        _tokens,
        **LM,
        num_key_value_heads=2,
        num_experts=4,
        **MOE,
    ),
    "experts:PhiMoE": _hf(
        "PhimoeForCausalLM",
        "PhimoeConfig",
        _tokens,
        **LM,
        num_key_value_heads=2,
        num_local_experts=4,
        **MOE,
    ),
    "language:Qwen2": _hf("Qwen2ForCausalLM", "Qwen2Config", _tokens, **LM, num_key_value_heads=2),
    "language:Qwen3": _hf("Qwen3ForCausalLM", "Qwen3Config", _tokens, **GQA),
    "language:Gemma2": _hf("Gemma2ForCausalLM", "Gemma2Config", _tokens, **GQA),
    "language:Phi3": _hf(
        "Phi3ForCausalLM", "Phi3Config", _tokens, **LM, num_key_value_heads=2, pad_token_id=0
    ),
    "language:OPT": _hf(
        "OPTForCausalLM",
        "OPTConfig",
        _tokens,
        vocab_size=100,
        w_hidden_size=64,
        w_ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        w_word_embed_proj_dim=64,
    ),
    "language:GPT-NeoX": _hf("GPTNeoXForCausalLM", "GPTNeoXConfig", _tokens, **LM),
    "language:Falcon": _hf(
        "FalconForCausalLM",
        "FalconConfig",
        _tokens,
        vocab_size=100,
        w_hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    "language:BLOOM": _hf(
        "BloomForCausalLM",
        "BloomConfig",
        _tokens,
        vocab_size=100,
        w_hidden_size=64,
        n_layer=2,
        n_head=4,
    ),
    "language:Mamba": _hf(
        "MambaForCausalLM",
        "MambaConfig",
        _tokens,
        vocab_size=100,
        w_hidden_size=64,
        num_hidden_layers=2,
        state_size=8,
    ),
    "language:RoBERTa": _hf("RobertaForMaskedLM", "RobertaConfig", _words, **LM),
    "language:DistilBERT": _hf(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        _words,
        vocab_size=100,
        w_dim=64,
        w_hidden_dim=128,
        n_layers=2,
        n_heads=4,
    ),
    "language:ELECTRA": _hf(
        "ElectraForPreTraining", "ElectraConfig", _words, **LM, w_embedding_size=32
    ),
    "language:ALBERT": _hf("AlbertForMaskedLM", "AlbertConfig", _words, **LM, w_embedding_size=32),
    "language:DeBERTa-v2": _hf("DebertaV2ForMaskedLM", "DebertaV2Config", _words, **LM),
    "language:MobileBERT": _hf(
        "MobileBertForMaskedLM",
        "MobileBertConfig",
        _words,
        vocab_size=100,
        w_hidden_size=64,
        w_embedding_size=32,
        w_intra_bottleneck_size=32,
        w_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    ),
    "language:T5": _hf(
        "T5ForConditionalGeneration",
        "T5Config",
        _pairs,
        vocab_size=100,
        w_d_model=64,
        w_d_ff=128,
        w_d_kv=16,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    ),
    "language:BART": _hf(
        "BartForConditionalGeneration",
        "BartConfig",
        _pairs,
        vocab_size=100,
        w_d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        w_encoder_ffn_dim=128,
        w_decoder_ffn_dim=128,
        max_position_embeddings=64,
    ),
    "language:Marian": _hf(
        "MarianMTModel",
        "MarianConfig",
        _pairs,
        vocab_size=100,
        w_d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        w_encoder_ffn_dim=128,
        w_decoder_ffn_dim=128,
        max_position_embeddings=64,
        pad_token_id=0,
        decoder_start_token_id=0,
    ),
    "video:VideoMAE": _hf(
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        _frames,
        **VISION,
        image_size=32,
        patch_size=16,
        num_frames=4,
    ),
    "video:TimeSformer": _hf(
        "TimesformerForVideoClassification",
        "TimesformerConfig",
        _frames,
        **VISION,
        image_size=32,
        patch_size=16,
        num_frames=4,
    ),
    "video:ViViT": _hf(
        "VivitForVideoClassification",
        "VivitConfig",
        _frames,
        **VISION,
        image_size=32,
        tubelet_size=[2, 16, 16],
        num_frames=4,
    ),
    "vision:DINOv2": _hf(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        _pixels(28),
        **VISION,
        image_size=28,
        patch_size=14,
    ),
    "vision:BEiT": _hf(
        "BeitForImageClassification",
        "BeitConfig",
        _pixels(32),
        **VISION,
        image_size=32,
        patch_size=16,
    ),
    "vision:ResNet": _hf(
        "ResNetForImageClassification",
        "ResNetConfig",
        _pixels(64),
        w_embedding_size=16,
        w_hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
    ),
    "vision:MobileViT": _hf(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        _pixels(64),
        image_size=64,
        w_hidden_sizes=[24, 32, 40],
        w_neck_hidden_sizes=[16, 16, 24, 32, 32, 40, 80],
    ),
    "vision:CvT": _hf(
        "CvtForImageClassification",
        "CvtConfig",
        _pixels(64),
        w_embed_dim=[16, 32, 64],
        num_heads=[1, 2, 4],
        depth=[1, 2, 3],
    ),
    "vision:PVTv2": _hf(
        "PvtV2ForImageClassification",
        "PvtV2Config",
        _pixels(64),
        image_size=64,
        w_hidden_sizes=[16, 32, 64, 64],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 4],
    ),
    "vision:YOLOS": _hf(
        "YolosForObjectDetection",
        "YolosConfig",
        _pixels(64),
        **VISION,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=5,
    ),
    "vision:DPT": _hf(
        "DPTForDepthEstimation",
        "DPTConfig",
        _pixels(64),
        **{**VISION, "num_hidden_layers": 4},
        image_size=64,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        w_neck_hidden_sizes=[16, 32, 64, 64],
        w_fusion_hidden_size=32,
    ),
    "vision:Swin2SR": _hf(
        "Swin2SRForImageSuperResolution",
        "Swin2SRConfig",
        _pixels(16),
        image_size=16,
        w_embed_dim=32,
        depths=[2],
        num_heads=[2],
        window_size=4,
        upscale=2,
    ),
    "pairs:CLIP": _hf(
        "CLIPModel",
        "CLIPConfig",
        _clip,
        text_config={
            "vocab_size": 100,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 16,
        },
        w_projection_dim=32,
    ),
}

OUTPUTS: dict[str, list[str]] = {
    **{
        name: ["logits"]
        for name in ("language:T5", "language:BART", "language:Marian", "speech:Whisper")
    },
    "vision:YOLOS": ["logits", "pred_boxes"],
    "pairs:CLIP": ["logits_per_image"],
}
"""The outputs that are used, where a network gives hidden states beside its answer."""
