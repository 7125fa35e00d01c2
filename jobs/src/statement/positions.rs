//! Lines and columns of a text as places in its bytes.

use datafusion::sql::sqlparser::tokenizer::Location;

/// Finds places one after another, in the order of the text.
pub struct Positions<'a> {
    text: std::str::CharIndices<'a>,
    length: usize,
    line: u64,
    column: u64,
}

impl<'a> Positions<'a> {
    /// Begins at the start of a text.
    pub fn new(text: &'a str) -> Self {
        Self { text: text.char_indices(), length: text.len(), line: 1, column: 1 }
    }

    /// The byte that a place is at; it must not be before the last one that was asked for.
    pub fn at(&mut self, location: Location) -> usize {
        loop {
            let here = self.text.clone().next();
            let Some((offset, character)) = here else { return self.length };
            if (self.line, self.column) >= (location.line, location.column) {
                return offset;
            }
            self.text.next();
            if character == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
    }
}
