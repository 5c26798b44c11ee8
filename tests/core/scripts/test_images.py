"""Residual network, vision transformer, U-Net and autoencoders, as they are trained."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from support.scripts import Ended, assert_derivative, assert_predictions

D = torch.float64


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def soft(*shape):
    """Labels: weights of classes."""
    return torch.softmax(2 * random(*shape, seed=1), dim=-1)


# ------------------------------------------------------------------------------------ a ResNet


class Residual(nn.Module):
    def __init__(self, into, out, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skip = nn.Identity()
        if stride > 1 or into != out:
            skip = nn.Conv2d(into, out, 1, stride, bias=False)
            self.skip = nn.Sequential(skip, nn.BatchNorm2d(out))

    def forward(self, x):
        h = self.body(x)
        h += self.skip(x)
        return functional.relu(h)


IMAGES, LABELS, TEST_IMAGES = random(8, 1, 6, 6), soft(8, 3), random(3, 1, 6, 6, seed=2)


class Augmented(Dataset):
    """Pictures shifted and mirrored anew whenever they are taken."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        padded = functional.pad(IMAGES[index], (1, 1, 1, 1))
        top, left = torch.randint(0, 3, (2,)).tolist()
        picture = padded[:, top : top + 6, left : left + 6]
        picture = picture.flip(-1) if torch.rand(()) < 0.5 else picture
        return picture, self.labels[index]


def train_resnet(Lens, shift=0):
    model = nn.Sequential(
        *(Residual(1, 3, 1), Residual(3, 4, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    ).to(D)
    loader = DataLoader(Augmented(LABELS + shift), batch_size=4, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    lens = Lens(model, optimizer, criterion, IMAGES, LABELS + shift, {"test": TEST_IMAGES})
    for _ in range(4):
        model.train()
        for pictures, labels in lens.batches(loader):
            with lens.step():
                optimizer.zero_grad()
                loss = criterion(model(pictures), labels)
                loss.backward()
                optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            outputs = model(TEST_IMAGES)
    return Ended(model, optimizer, lens, {"test": outputs})


def test_a_resnet_with_batch_norm_and_augmentation():
    assert_predictions(train_resnet, share=0.5)
    assert_derivative(train_resnet, LABELS)


# -------------------------------------------------------------------------- a vision transformer


class DropPath(nn.Module):
    """Leaves a branch out, row by row."""

    def forward(self, x):
        if not self.training:
            return x
        keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(0.8)
        return x * keep.div_(0.8)


class ViT(nn.Module):
    def __init__(self, width=8, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=3, stride=3)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 5, width))
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, width)
        )
        self.path, self.drop = DropPath(), nn.Dropout(0.1)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        x = self.drop(x + self.positions)
        z = self.before(x)
        x = x + self.path(self.attention(z, z, z, need_weights=False)[0])
        x = x + self.path(self.mlp(self.between(x)))
        return self.head(x[:, 0])


def train_vit(Lens, shift=0):
    model = ViT().to(D)
    labels = LABELS + shift
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    lens = Lens(model, optimizer, criterion, IMAGES, labels, {"test": TEST_IMAGES})
    model.train()
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 3)
        index = torch.randperm(len(IMAGES))[:4]
        with lens.step(index):
            loss = criterion(model(IMAGES[index]), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
    model.eval()
    return Ended(model, optimizer, lens, {"test": model(TEST_IMAGES).detach()})


def test_a_vision_transformer():
    assert_predictions(train_vit)
    assert_derivative(train_vit, LABELS)


# --------------------------------------------------------------------------------------- a U-Net


def double(into, out):
    layers = [
        layer
        for a, b in ((into, out), (out, out))
        for layer in (
            nn.Conv2d(a, b, 3, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(inplace=True),
        )
    ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.down, self.bottom = double(1, 2), double(2, 4), double(4, 4)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.transposed = nn.ConvTranspose2d(4, 2, kernel_size=2, stride=2)
        self.join, self.out = double(8, 4), nn.Conv2d(4, 1, kernel_size=1)

    def forward(self, x):
        first = self.into(x)
        second = self.down(functional.max_pool2d(first, 2))
        x = self.up(self.bottom(functional.max_pool2d(second, 2)))
        x = self.transposed(self.join(torch.cat([second, x], dim=1)))
        return self.out(torch.cat([first, x], dim=1))


PICTURES, TEST_PICTURES = random(4, 1, 4, 4), random(2, 1, 4, 4, seed=3)
MASKS = torch.sigmoid(3 * random(4, 1, 4, 4, seed=4))


def masked(logits, masks):
    """Cross-entropy of pixels and the overlap of whole masks."""
    covered = torch.sigmoid(logits)
    overlap = 2 * (covered * masks).sum() / (covered.sum() + masks.sum())
    return functional.binary_cross_entropy_with_logits(logits, masks) + 1 - overlap


def train_unet(Lens, shift=0):
    model = UNet().to(D).to(memory_format=torch.channels_last)
    masks = MASKS + shift
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, foreach=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    lens = Lens(model, optimizer, masked, PICTURES, masks, {"test": TEST_PICTURES})
    for _ in range(4):
        model.train()
        for index in torch.randperm(4).split(2):
            with lens.step(index):
                pictures = PICTURES[index].to(memory_format=torch.channels_last)
                with torch.autocast("cpu", enabled=False):
                    loss = masked(model(pictures), masks[index])
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1e3)
                scaler.step(optimizer)
                scaler.update()
        model.eval()
        with torch.inference_mode():
            outputs = model(TEST_PICTURES)
        schedule.step(0.5)
    return Ended(model, optimizer, lens, {"test": outputs.clone()})


def test_a_unet():
    assert_predictions(train_unet, share=0.5)
    assert_derivative(train_unet, MASKS, response="sigmoid")


# ---------------------------------------------------------------------------------- autoencoders


class Denoising(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.PReLU(3))
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.narrow = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(3, 3, 1), nn.SiLU())
        self.decode = nn.ConvTranspose2d(3, 1, 3, padding=1)

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.decode(self.up(self.narrow(self.pool(self.encode(x)))))


def train_autoencoder(Lens, shift=0):
    model, targets = Denoising().to(D), PICTURES + shift
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    lens = Lens(model, optimizer, criterion, PICTURES, targets, {"test": TEST_PICTURES})
    for _ in range(8):
        model.train()
        index = torch.randperm(4)[:3]
        with lens.step(index):
            optimizer.zero_grad()
            criterion(model(PICTURES[index]), targets[index]).backward()
            optimizer.step()
    model.eval()
    return Ended(model, optimizer, lens, {"test": model(TEST_PICTURES).detach()})


def test_a_denoising_autoencoder():
    assert_predictions(train_autoencoder, share=0.5)
    assert_derivative(train_autoencoder, PICTURES)
