//! The parts of PE32+ that matter for adding sections (Microsoft's "PE Format").

/// Bytes of a section header.
const SECTION_HEADER: usize = 40;
/// Bytes of the COFF header behind the signature.
const COFF_HEADER: usize = 20;
/// Offsets in the optional header of PE32+.
mod optional {
    pub(super) const INITIALIZED_DATA: usize = 8;
    pub(super) const SECTION_ALIGNMENT: usize = 32;
    pub(super) const FILE_ALIGNMENT: usize = 36;
    pub(super) const IMAGE_SIZE: usize = 56;
    pub(super) const HEADERS_SIZE: usize = 60;
    pub(super) const CHECKSUM: usize = 64;
    pub(super) const DIRECTORIES: usize = 108;
    /// Entry of the certificate table in the data directories.
    pub(super) const CERTIFICATES: usize = 112 + 4 * 8;
    pub(super) const LENGTH: usize = 112;
}
const PE32_PLUS: u16 = 0x020b;
/// Sections get addresses of whole pages, even where the stub would be content with less: firmware sets access
/// rights by pages.
const PAGE: u32 = 4096;
/// COFF characteristics: line numbers and symbols are not in the file.
const STRIPPED: u8 = 0x0c;
/// Initialised data, readable.
const CHARACTERISTICS: u32 = 0x4000_0040;

/// The file is no PE program this module can work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a sound PE file: {0}")]
pub struct InvalidPe(String);

fn invalid(what: impl Into<String>) -> InvalidPe {
    InvalidPe(what.into())
}

/// A section and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name, with the dot.
    pub name: String,
    /// Its address in memory, relative to the image.
    pub address: u32,
    /// Its bytes in the file, without padding.
    pub content: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// What the headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the first section header.
    table: usize,
    sections: usize,
    section_alignment: u32,
    file_alignment: u32,
    headers_size: u32,
}

/// A section header's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    virtual_size: u32,
    address: u32,
    raw_size: u32,
    offset: u32,
}

impl Headers {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, InvalidPe> {
        let short = || invalid("it is cut short");
        if bytes.get(..2) != Some(b"MZ") {
            return Err(invalid("the MZ signature is missing"));
        }
        let signature = u32_at(bytes, 0x3c).ok_or_else(short)? as usize;
        if bytes.get(signature..).and_then(|rest| rest.get(..4)) != Some(b"PE\0\0") {
            return Err(invalid("the PE signature is missing"));
        }
        let coff = signature + 4;
        let optional = coff + COFF_HEADER;
        let sections = usize::from(u16_at(bytes, coff + 2).ok_or_else(short)?);
        let optional_size = usize::from(u16_at(bytes, coff + 16).ok_or_else(short)?);
        let magic = u16_at(bytes, optional).ok_or_else(short)?;
        if magic != PE32_PLUS || optional_size < optional::LENGTH {
            return Err(invalid(format!("it is no 64-bit program (magic {magic:#x})")));
        }
        let field = |at: usize| u32_at(bytes, optional + at).ok_or_else(short);
        let headers = Self {
            coff,
            optional,
            table: optional + optional_size,
            sections,
            section_alignment: field(optional::SECTION_ALIGNMENT)?,
            file_alignment: field(optional::FILE_ALIGNMENT)?,
            headers_size: field(optional::HEADERS_SIZE)?,
        };
        if bytes.len() < headers.table + sections * SECTION_HEADER {
            return Err(invalid("its section headers are cut short"));
        }
        Ok(headers)
    }

    /// Whether sections can be added without breaking something.
    pub(super) fn check_extensible(&self, bytes: &[u8]) -> Result<(), InvalidPe> {
        if !self.section_alignment.is_power_of_two() || !self.file_alignment.is_power_of_two() {
            return Err(invalid(format!(
                "alignments of {} and {} bytes",
                self.section_alignment, self.file_alignment
            )));
        }
        let directories = u32_at(bytes, self.optional + optional::DIRECTORIES).unwrap_or(0);
        let certificates = u32_at(bytes, self.optional + optional::CERTIFICATES).unwrap_or(0);
        if directories > 4 && certificates != 0 {
            return Err(invalid("it is signed; adding sections would break the signature"));
        }
        Ok(())
    }

    /// The file without its symbol table, which would be left between the old sections and the new ones. Sections
    /// with names longer than eight bytes need it; then, and where something else follows, the file stays as it is.
    pub(super) fn strip_symbols(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stripped = bytes.to_vec();
        let end = self.places(bytes).iter().map(|place| place.offset.saturating_add(place.raw_size)).max();
        let needed =
            (0..self.sections).any(|index| bytes.get(self.table + index * SECTION_HEADER) == Some(&b'/'));
        let symbols = u32_at(bytes, self.coff + 8).filter(|at| *at != 0);
        if needed || symbols.is_none() || symbols != end || end.is_none_or(|end| end as usize > bytes.len()) {
            return stripped;
        }
        stripped.truncate(end.map_or(bytes.len(), |end| end as usize));
        if let Some(header) = stripped.get_mut(self.coff..self.coff + COFF_HEADER) {
            header[8..16].fill(0);
            header[18] |= STRIPPED;
        }
        stripped
    }

    fn places(&self, bytes: &[u8]) -> Vec<Place> {
        (0..self.sections)
            .filter_map(|index| {
                let at = self.table + index * SECTION_HEADER;
                Some(Place {
                    virtual_size: u32_at(bytes, at + 8)?,
                    address: u32_at(bytes, at + 12)?,
                    raw_size: u32_at(bytes, at + 16)?,
                    offset: u32_at(bytes, at + 20)?,
                })
            })
            .collect()
    }

    /// How many section headers fit between the last one and the first section's bytes.
    pub(super) fn room_for_sections(&self, bytes: &[u8]) -> usize {
        let end = self.table + self.sections * SECTION_HEADER;
        let first =
            self.places(bytes).iter().filter(|place| place.raw_size > 0).map(|place| place.offset).min();
        let limit = (first.unwrap_or(self.headers_size).min(self.headers_size) as usize).min(bytes.len());
        let spare = bytes.get(end..limit).unwrap_or_default();
        // Something that is not zero is not ours to overwrite.
        spare.iter().take_while(|byte| **byte == 0).count() / SECTION_HEADER
    }
}

/// The sections of a PE file, in the file's order.
///
/// # Errors
/// [`InvalidPe`], also when a section's bytes are not all there.
pub fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, InvalidPe> {
    let headers = Headers::parse(bytes)?;
    headers
        .places(bytes)
        .into_iter()
        .enumerate()
        .map(|(index, place)| {
            let at = headers.table + index * SECTION_HEADER;
            let raw_name = &bytes[at..at + 8];
            let end = raw_name.iter().position(|byte| *byte == 0).unwrap_or(8);
            let name = String::from_utf8_lossy(&raw_name[..end]).into_owned();
            let length = place.raw_size.min(place.virtual_size) as usize;
            let start = place.offset as usize;
            let content = bytes
                .get(start..start.saturating_add(length))
                .ok_or_else(|| invalid(format!("section {name} reaches past the end of the file")))?;
            Ok(Section { name, address: place.address, content })
        })
        .collect()
}

/// Where new sections go.
pub(super) struct Layout {
    places: Vec<Place>,
    /// Behind the last section, in memory.
    image_size: u32,
    /// What the new sections add to the initialised data.
    added: u32,
}

impl Layout {
    /// Places sections behind the stub's; `None` when addresses run out.
    pub(super) fn behind(headers: &Headers, stub: &[u8], added: &[(&'static str, &[u8])]) -> Option<Self> {
        let present = headers.places(stub);
        let mut address = headers.headers_size;
        for place in &present {
            address = address.max(place.address.checked_add(place.virtual_size)?);
        }
        let mut offset = u32::try_from(stub.len()).ok()?;
        let alignment = headers.section_alignment.max(PAGE);
        let mut places = Vec::with_capacity(added.len());
        let mut total = 0u32;
        for (_, content) in added {
            let virtual_size = u32::try_from(content.len()).ok()?;
            address = address.checked_next_multiple_of(alignment)?;
            offset = offset.checked_next_multiple_of(headers.file_alignment)?;
            let raw_size = virtual_size.checked_next_multiple_of(headers.file_alignment)?;
            places.push(Place { virtual_size, address, raw_size, offset });
            address = address.checked_add(virtual_size)?;
            offset = offset.checked_add(raw_size)?;
            total = total.checked_add(raw_size)?;
        }
        Some(Self {
            places,
            image_size: address.checked_next_multiple_of(headers.section_alignment)?,
            added: total,
        })
    }

    pub(super) fn assemble(
        &self,
        headers: &Headers,
        stub: &[u8],
        added: &[(&'static str, &[u8])],
    ) -> Vec<u8> {
        let end = self.places.last().map_or(stub.len(), |place| (place.offset + place.raw_size) as usize);
        let mut image = Vec::with_capacity(end);
        image.extend_from_slice(stub);
        for ((_, content), place) in added.iter().zip(&self.places) {
            image.resize(place.offset as usize, 0);
            image.extend_from_slice(content);
            image.resize((place.offset + place.raw_size) as usize, 0);
        }
        for (index, ((name, _), place)) in added.iter().zip(&self.places).enumerate() {
            let at = headers.table + (headers.sections + index) * SECTION_HEADER;
            let mut header = [0; SECTION_HEADER];
            header[..name.len()].copy_from_slice(name.as_bytes());
            for (at, value) in [
                (8, place.virtual_size),
                (12, place.address),
                (16, place.raw_size),
                (20, place.offset),
                (36, CHARACTERISTICS),
            ] {
                header[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            image[at..at + SECTION_HEADER].copy_from_slice(&header);
        }
        let mut put = |at: usize, value: u32| image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let data = headers.optional + optional::INITIALIZED_DATA;
        put(data, u32_at(stub, data).unwrap_or(0).saturating_add(self.added));
        put(headers.optional + optional::IMAGE_SIZE, self.image_size);
        let count = (headers.sections + added.len()) as u16;
        image[headers.coff + 2..headers.coff + 4].copy_from_slice(&count.to_le_bytes());
        let at = headers.optional + optional::CHECKSUM;
        image[at..at + 4].fill(0);
        let sum = checksum(&image);
        image[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        image
    }
}

/// The optional header's checksum, computed with its own field as zero: the ones' complement sum of all 16-bit
/// words, and the file's length.
fn checksum(image: &[u8]) -> u32 {
    let mut words = image.chunks_exact(2);
    let mut sum: u64 = words.by_ref().map(|word| u64::from(u16::from_le_bytes([word[0], word[1]]))).sum();
    sum += words.remainder().first().map_or(0, |byte| u64::from(*byte));
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (sum as u32).wrapping_add(image.len() as u32)
}
