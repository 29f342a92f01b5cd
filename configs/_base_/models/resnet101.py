# What leaf configs put in the place of ResNet-50; torchvision's weights, IMAGENET1K_V1
resnet101 = dict(
    depth=101, pretrained='https://download.pytorch.org/models/resnet101-63fe2227.pth')
