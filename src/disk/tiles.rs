//! A large piece of a request whose units lie in several layers by turns: decrypted from where each
//! layer's file lies in memory, without a system call for each turn.

use super::DiskError;
use super::read::Descent;
use super::unit_map::UnitMap;
use crate::layer::{Presence, Sealed, Shown};
use crate::units::{ByteCount, DataUnit};

/// Tiles that are taken together.
const TILES: usize = 32;

/// Cache lines of the next tile that are fetched while one is decrypted: a page. The processor
/// itself looks ahead within a page and no further, and every tile lies in other pages.
const AHEAD_LINES: usize = 64;

/// Pieces of less are read as they come.
pub(super) const BYTES_MIN: usize = 64 << 10;

/// Units in a row that are looked for in one layer.
#[derive(Clone, Copy, Debug, Default)]
struct Tile {
    position: usize,
    units: usize,
    /// Which of the views they are in.
    view: usize,
}

/// Tiles that follow each other, and the views of their layers.
#[derive(Debug, Default)]
struct Tiles {
    tiles: [Tile; TILES],
    len: usize,
    positions: [usize; TILES],
    views: [Option<Shown>; TILES],
    /// Layers that were asked for a view.
    asked: usize,
}

impl Tiles {
    fn iter(&self) -> impl Iterator<Item = &Tile> {
        self.tiles[..self.len].iter()
    }

    fn units(&self) -> usize {
        self.iter().map(|tile| tile.units).sum()
    }

    /// Whether all that was looked at was as it is in the layers.
    fn is_sound(&self) -> bool {
        self.views[..self.asked].iter().flatten().all(Shown::is_sound)
    }
}

impl Descent<'_> {
    /// Reads units that lie where `map` says. `Ok(false)` as [`super::Disk::read`].
    pub(super) fn read_tiles(
        self,
        map: &UnitMap,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let unit = self.stack.top.unit_size().as_usize();
        let (mut done, whole) = (0, ByteCount::of(data));
        while done < data.len() {
            let (at, rest) = (first.plus((done / unit) as u64), &mut data[done..]);
            let Some(tiles) = self.lay(map, (at, rest.len() / unit), whole)? else {
                return Ok(false);
            };
            let (now, before) = (&mut rest[..tiles.units() * unit], present.len());
            done += now.len();
            if !self.decrypt_tiles(&tiles, at, now, present)? {
                return Ok(false);
            }
            if !tiles.is_sound() {
                present.truncate(before);
                if !self.read_runs(map, at, now, present)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The tiles of `units` units from `first` on, or of as many as are taken together, out of a
    /// piece of `whole` bytes.
    fn lay(
        self,
        map: &UnitMap,
        (first, units): (DataUnit, usize),
        whole: ByteCount,
    ) -> Result<Option<Tiles>, DiskError> {
        let (mut tiles, mut done) = (Tiles::default(), 0);
        while done < units && tiles.len < TILES {
            let at = first.plus(done as u64);
            let Some(lead) = self.lead(map, at, (units - done) as u64)? else { return Ok(None) };
            let position = lead.position.unwrap_or(self.stack.depth());
            let asked = &tiles.positions[..tiles.asked];
            let view = asked.iter().position(|other| *other == position).unwrap_or_else(|| {
                let view = tiles.asked;
                tiles.positions[view] = position;
                if position > 0 {
                    tiles.views[view] = self.stack.at(position).show(first, units as u64, whole);
                }
                tiles.asked += 1;
                view
            });
            tiles.tiles[tiles.len] = Tile { position, units: lead.units as usize, view };
            tiles.len += 1;
            done += lead.units as usize;
        }
        Ok(Some(tiles))
    }

    /// What is shown of each tile. The first bytes of all are fetched together.
    fn sealed<'t>(self, tiles: &'t Tiles, first: DataUnit) -> [Option<Sealed<'t>>; TILES] {
        let (mut all, mut at) = ([None; TILES], first);
        for (tile, sealed) in tiles.iter().zip(&mut all) {
            *sealed = tiles.views[tile.view]
                .as_ref()
                .and_then(|view| self.stack.at(tile.position).sealed(view, at, tile.units))
                .inspect(|sealed| sealed.prefetch(1));
            at = at.plus(tile.units as u64);
        }
        all
    }

    fn decrypt_tiles(
        self,
        tiles: &Tiles,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let unit = self.stack.top.unit_size().as_usize();
        let (mut at, mut rest) = (first, data);
        let all = self.sealed(tiles, first);
        for (index, (tile, sealed)) in tiles.iter().zip(&all).enumerate() {
            if let Some(Some(next)) = all.get(index + 1) {
                next.prefetch(AHEAD_LINES);
            }
            let (data, after) = rest.split_at_mut(tile.units * unit);
            let place = || self.stack.at(tile.position);
            if sealed.is_some_and(|sealed| place().decrypt_sealed(&sealed, data)) {
                present.extend_present(tile.units);
            } else if !self.read_from(tile.position, at, data, present)? {
                return Ok(false);
            }
            (at, rest) = (at.plus(tile.units as u64), after);
        }
        Ok(true)
    }
}
