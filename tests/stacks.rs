use std::convert::Infallible;
use std::ops::ControlFlow;
use std::process::Command;

use image::{GenericImageView, Rgb, RgbImage};
use tissuemap::pyramid::{Stack, write_stack};
use tissuemap::units::{Mpp, PixelRect};

use crate::support;

/// Nothing of ours reads here: the size of the stack and its level-0 planes as raw bytes are all it is told.
const CHECK: &str = "
import sys, numpy as np, tifffile, xml.etree.ElementTree as xml
path, planes, width, height = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
expected = np.fromfile(planes, np.uint8).reshape(-1, height, width)
with tifffile.TiffFile(path) as file:
    assert file.is_ome and len(file.series) == 1
    levels = file.series[0].levels
    assert [level.axes for level in levels] == ['CYX'] * 3, levels
    for level in levels:
        assert level.shape == expected.shape, (level.shape, expected.shape)
        assert (level.asarray() == expected).all(), level
        y, x = (side % 2 for side in expected.shape[1:])
        full = np.pad(expected, ((0, 0), (0, y), (0, x)), mode='edge').astype(np.uint16)
        four = full[:, ::2, ::2] + full[:, 1::2, ::2] + full[:, ::2, 1::2] + full[:, 1::2, 1::2]
        expected = ((four + 2) // 4).astype(np.uint8)
    root = xml.fromstring(file.ome_metadata)
    names = [channel.get('Name') for channel in root.findall('.//{*}Channel')]
    assert names == [f'{stain} {plane}' for stain in ('HE', 'α-SMA') for plane in ('red', 'green', 'blue')], names
    pixels = root.find('.//{*}Pixels').attrib
    assert (pixels['PhysicalSizeX'], pixels['PhysicalSizeXUnit']) == ('0.499', 'µm'), pixels
";

#[test]
fn tifffile_reads_a_stack_plane_by_plane_and_level_by_level() {
    let python = support::root().join(".deps/venv/bin/python");
    if !Command::new(&python).args(["-c", "import tifffile"]).output().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: tifffile_reads_a_stack: no .deps/venv; run scripts/setup.sh --test");
        return;
    }
    let (width, height) = (1301, 777);
    let he = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 + y) as u8, (y * 5) as u8, (x ^ y) as u8]));
    let sma = RgbImage::from_fn(width, height, |x, y| Rgb([(y * 3) as u8, (x + y) as u8, (x * 11) as u8]));
    let sections = [he, sma];
    let stack = Stack {
        name: "case7".into(),
        description: String::new(),
        width,
        height,
        mpp: Mpp::new(0.499).expect("plausible"),
        stains: vec!["HE".into(), "α-SMA".into()],
    };
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, planes) = (folder.path().join("case7.ome.tiff"), folder.path().join("planes"));
    let tile = |stain: usize, rect: PixelRect| {
        let section: &RgbImage = &sections[stain];
        Ok::<_, Infallible>(section.view(rect.x as u32, rect.y as u32, rect.width, rect.height).to_image())
    };
    write_stack(&path, &stack, tile, |_, _| ControlFlow::Continue(())).expect("written");
    let plane = |section: &RgbImage, c: usize| section.pixels().map(|p| p[c]).collect::<Vec<_>>();
    let raw: Vec<u8> = sections.iter().flat_map(|s| [0, 1, 2].map(|c| plane(s, c)).concat()).collect();
    std::fs::write(&planes, raw).expect("writable");

    let output = Command::new(&python)
        .args(["-c", CHECK])
        .args([&path, &planes])
        .args([width.to_string(), height.to_string()])
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
