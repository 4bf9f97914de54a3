//! Binds OpenSlide at run time, so that a missing or old library is our one clear error and not the dynamic loader's.
//!
//! `openslide-sys` only declares the C functions; our `openslide.pc` names no library to link. This module defines
//! those symbols: each forwards to the function of the same name in the shared library that [`load`] opened.
//! The only other unsafe code in this crate is the call in `libs` that loads the library.
#![allow(unsafe_code, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

use crate::libs::{LibraryError, SharedLibrary, loader_reason};

/// Opaque C structs; only pointers to them exist on this side.
type Slide = c_void;
type Cache = c_void;

macro_rules! forward {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        struct Api { _library: libloading::Library, $($name: unsafe extern "C" fn($($ty),*) $(-> $ret)?),* }

        impl Api {
            fn bind(library: libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the signatures are those of OpenSlide's documented C interface, 4.0 and later.
                unsafe {
                    Ok(Self { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes())?,)* _library: library })
                }
            }
        }

        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's contract is the C function's own; the pointer was bound from the library.
                unsafe { (api().$name)($($arg),*) }
            }
        )*
    };
}

forward! {
    openslide_get_version() -> *const c_char;
    openslide_detect_vendor(filename: *const c_char) -> *const c_char;
    openslide_open(filename: *const c_char) -> *mut Slide;
    openslide_close(slide: *mut Slide);
    openslide_get_error(slide: *mut Slide) -> *const c_char;
    openslide_get_level_count(slide: *mut Slide) -> i32;
    openslide_get_level_dimensions(slide: *mut Slide, level: i32, w: *mut i64, h: *mut i64);
    openslide_get_level_downsample(slide: *mut Slide, level: i32) -> f64;
    openslide_get_best_level_for_downsample(slide: *mut Slide, downsample: f64) -> i32;
    openslide_read_region(slide: *mut Slide, dest: *mut u32, x: i64, y: i64, level: i32, w: i64, h: i64);
    openslide_get_property_names(slide: *mut Slide) -> *const *const c_char;
    openslide_get_property_value(slide: *mut Slide, name: *const c_char) -> *const c_char;
    openslide_get_associated_image_names(slide: *mut Slide) -> *const *const c_char;
    openslide_get_associated_image_dimensions(slide: *mut Slide, name: *const c_char, w: *mut i64, h: *mut i64);
    openslide_read_associated_image(slide: *mut Slide, name: *const c_char, dest: *mut u32);
    openslide_get_icc_profile_size(slide: *mut Slide) -> i64;
    openslide_read_icc_profile(slide: *mut Slide, dest: *mut c_void);
    openslide_get_associated_image_icc_profile_size(slide: *mut Slide, name: *const c_char) -> i64;
    openslide_read_associated_image_icc_profile(slide: *mut Slide, name: *const c_char, dest: *mut c_void);
    openslide_cache_create(capacity: usize) -> *mut Cache;
    openslide_set_cache(slide: *mut Slide, cache: *mut Cache);
    openslide_cache_release(cache: *mut Cache);
}

static API: OnceLock<Result<Api, LibraryError>> = OnceLock::new();

/// What setup.sh brings and what the DICOM and mpp behaviour was measured with; Debian 12's 3.4.1 has neither.
const OPENSLIDE: SharedLibrary = SharedLibrary {
    name: "OpenSlide",
    soname: "libopenslide.so.1",
    required: ">= 4.0",
    remedy: "run scripts/setup.sh, or put libopenslide.so.1 (OpenSlide 4.0 or later) into a folder named by TISSUEMAP_LIB_DIR",
};

/// Opens OpenSlide once per process. Every later call returns the first call's outcome.
///
/// # Errors
/// The library is not found, cannot be loaded, or is older than 4.0.
pub fn load() -> Result<(), LibraryError> {
    API.get_or_init(|| {
        let (library, path) = OPENSLIDE.open()?;
        // 3.4 lacks the cache and ICC functions, so binding tells old from new.
        Api::bind(library).map_err(|e| OPENSLIDE.wrong(&path, &loader_reason(&e)))
    })
    .as_ref()
    .map(|_| ())
    .map_err(Clone::clone)
}

fn api() -> &'static Api {
    match API.get() {
        Some(Ok(api)) => api,
        // Unreachable from safe code of ours: slide::open calls load() first and returns its error.
        _ => std::process::abort(),
    }
}
