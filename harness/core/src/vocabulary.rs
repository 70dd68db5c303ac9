// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Closed lists of words. A vocabulary is an enum whose words stand beside its variants, once: parsing, printing,
//! JSON, the "use one of" of an error message and the generated documentation all read the same list.

/// Define an enum of words: `as_str`, `parse`, `ALL`, `doc`, `list`, [`std::fmt::Display`] and serde as a string.
macro_rules! vocabulary {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $( $(#[doc = $doc])+ $variant, )+ }

        impl $name {
            /// Every word, in the order of definition.
            $vis const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word.
            $vis fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The word's documentation.
            #[allow(dead_code, reason = "only some vocabularies have a page of their own")]
            $vis fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc, "\n"),+)),+ }
            }

            /// The variant of a word.
            $vis fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == word)
            }

            /// All words, for "use one of ...".
            $vis fn list() -> String {
                Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ")
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&word).ok_or_else(|| {
                    serde::de::Error::custom(format!("`{word}` is unknown; use one of {}", Self::list()))
                })
            }
        }
    };
}
