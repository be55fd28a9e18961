"""Metadata of the prepared data sets: authors, the paper to cite, the place to download from."""

from typing import NamedTuple


class Facts(NamedTuple):
    """`licence` as stated by the authors; `download` lists the files and how they may lie in the folder."""

    description: str
    homepage: str
    licence: str
    download: str
    citation: str


FACTS = {
    "gopro": Facts(
        "Pairs of frames, blurred by averaging 7 to 13 consecutive frames of GoPro recordings at 240 frames a second.",
        "https://seungjunnah.github.io/Datasets/gopro",
        "CC BY 4.0",
        "GOPRO_Large.zip or its extraction",
        """@inproceedings{nah2017deep,
  title={Deep Multi-scale Convolutional Neural Network for Dynamic Scene Deblurring},
  author={Nah, Seungjun and Kim, Tae Hyun and Lee, Kyoung Mu},
  booktitle={CVPR},
  year={2017}
}""",
    ),
    "hide": Facts(
        "Pairs of frames with people in them, blurred by averaging consecutive frames; close-ups and long shots.",
        "https://github.com/joanshen0508/HA_deblur",
        "none stated",
        "HIDE_dataset.zip or its extraction: train/, test/, GT/",
        """@inproceedings{shen2019human,
  title={Human-Aware Motion Deblurring},
  author={Shen, Ziyi and Wang, Wenguan and Lu, Xiankai and Shen, Jianbing and Ling, Haibin and Xu, Tingfa and Shao, Ling},
  booktitle={ICCV},
  year={2019}
}""",
    ),
    "realblur": Facts(
        "Pairs of photographs of low-light scenes taken at once through a beam splitter, one with a long and one with a short exposure.",
        "https://github.com/rimchang/RealBlur",
        "none stated",
        "RealBlur.zip or its extraction, with its list files RealBlur_{J,R}_{train,test}_list.txt",
        """@inproceedings{rim2020real,
  title={Real-World Blur Dataset for Learning and Benchmarking Deblurring Algorithms},
  author={Rim, Jaesung and Lee, Haeyun and Won, Jucheol and Cho, Sunghyun},
  booktitle={ECCV},
  year={2020}
}""",
    ),
    "koehler": Facts(
        "Four scenes photographed along twelve recorded camera shakes, and the sharp frames along each of these.",
        "http://webdav.is.mpg.de/pixel/benchmark4camerashake/",
        "none stated",
        "BlurryImages.zip and GroundTruth_pngs_Image1.zip to GroundTruth_pngs_Image4.zip in one folder, or their extraction",
        """@inproceedings{koehler2012recording,
  title={Recording and Playback of Camera Shake: Benchmarking Blind Deconvolution with a Real-World Database},
  author={K{\\"o}hler, Rolf and Hirsch, Michael and Mohler, Betty and Sch{\\"o}lkopf, Bernhard and Harmeling, Stefan},
  booktitle={ECCV},
  year={2012}
}""",
    ),
    "lai": Facts(
        "Blurred photographs (real), and sharp images blurred by kernels (uniform) or by camera motions (nonuniform).",
        "http://vllab.ucmerced.edu/~wlai24/cvpr16_deblur_study/",
        "none stated",
        "the archives of the images or their extraction, with ground_truth/ for the synthetic parts",
        """@inproceedings{lai2016comparative,
  title={A Comparative Study for Single Image Blind Deblurring},
  author={Lai, Wei-Sheng and Huang, Jia-Bin and Hu, Zhe and Ahuja, Narendra and Yang, Ming-Hsuan},
  booktitle={CVPR},
  year={2016}
}""",
    ),
    "reds": Facts(
        "Pairs of frames of realistic and dynamic scenes, blurred by averaging frames interpolated to a high rate.",
        "https://seungjunnah.github.io/Datasets/reds",
        "CC BY 4.0",
        "train_blur.zip, train_sharp.zip, val_blur.zip and val_sharp.zip in one folder, or their extraction",
        """@inproceedings{nah2019ntire,
  title={NTIRE 2019 Challenge on Video Deblurring and Super-Resolution: Dataset and Study},
  author={Nah, Seungjun and Baik, Sungyong and Hong, Seokil and Moon, Gyeongsik and Son, Sanghyun and Timofte, Radu and Lee, Kyoung Mu},
  booktitle={CVPR Workshops},
  year={2019}
}""",
    ),
    "deblurring_pairs": Facts(
        "The user's own pairs of blurred and sharp images.",
        "",
        "none stated",
        "folders blur + sharp, input + target or A + B, or GoPro's scenes, optionally below train, val and test",
        "",
    ),
}
