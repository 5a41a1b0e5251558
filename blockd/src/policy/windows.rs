//! The windows that a class of retention cuts time into.

use jiff::Span;
use jiff::civil::{Date, Weekday};

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Days(u8);

impl Days {
    /// All seven.
    pub const ALL: Self = Self(0x7f);

    /// With this day too.
    #[must_use]
    pub fn and(self, day: Weekday) -> Self {
        Self(self.0 | Self::bit(day))
    }

    /// Whether this day is one of them.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & Self::bit(day) != 0
    }

    /// How many they are.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    fn bit(day: Weekday) -> u8 {
        1 << day.to_monday_zero_offset()
    }
}

/// The days at whose local midnight a window begins and the one before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    /// Every day.
    Daily,
    /// These days of the week.
    Weekly(Days),
    /// This day of every month, or its last day if it is shorter: 31 is always the last.
    Monthly(i8),
    /// This day of this month, likewise.
    Yearly {
        /// 1 to 12.
        month: i8,
        /// 1 to 31.
        day: i8,
    },
}

impl Cuts {
    /// Whether a window begins on this day.
    fn is_at(self, date: Date) -> bool {
        let is_day = |day: i8| date.day() == day.min(date.days_in_month());
        match self {
            Self::Daily => true,
            Self::Weekly(days) => days.contains(date.weekday()),
            Self::Monthly(day) => is_day(day),
            Self::Yearly { month, day } => date.month() == month && is_day(day),
        }
    }

    /// The day on which the window of this day begins. The first window of all begins with the calendar.
    pub fn start_of(self, date: Date) -> Date {
        let mut start = date;
        while !self.is_at(start) {
            match start.yesterday() {
                Ok(before) => start = before,
                Err(_) => break,
            }
        }
        start
    }

    /// The day on which the next window begins; the calendar's last day if none does.
    pub fn next_after(self, date: Date) -> Date {
        let mut next = date;
        while let Ok(after) = next.tomorrow() {
            next = after;
            if self.is_at(next) {
                break;
            }
        }
        next
    }

    /// The day on which the `n`th window after the one that begins on `start` begins; the calendar's last day if none does.
    pub fn nth_after(self, start: Date, n: usize) -> Date {
        let many = i64::try_from(n).unwrap_or(i64::MAX);
        let days_later = |days: i64| Span::new().try_days(days).and_then(|span| start.checked_add(span));
        let months_later = |months: i64, day: i8| {
            let first =
                Span::new().try_months(months).and_then(|span| start.first_of_month().checked_add(span))?;
            first.with().day(day.min(first.days_in_month())).build()
        };
        let found = match self {
            Self::Daily => days_later(many),
            Self::Weekly(days) if days.count() == 0 => return Date::MAX,
            Self::Weekly(days) => {
                let rest = n % days.count();
                days_later((many / days.count() as i64).saturating_mul(7))
                    .map(|near| (0..rest).fold(near, |near, _| self.next_after(near)))
            }
            Self::Monthly(day) => months_later(many, day),
            Self::Yearly { day, .. } => months_later(many.saturating_mul(12), day),
        };
        found.unwrap_or(Date::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn short_months_are_cut_on_their_last_day() {
        let last = Cuts::Monthly(31);
        assert_eq!(last.start_of(date(2026, 3, 30)), date(2026, 2, 28));
        assert_eq!(last.start_of(date(2024, 2, 29)), date(2024, 2, 29));
        assert_eq!(last.next_after(date(2024, 2, 29)), date(2024, 3, 31));
        let leap = Cuts::Yearly { month: 2, day: 29 };
        assert_eq!(leap.start_of(date(2026, 12, 1)), date(2026, 2, 28));
        assert_eq!(leap.next_after(date(2027, 3, 1)), date(2028, 2, 29));
    }

    #[test]
    fn weeks_are_cut_on_each_of_their_days() {
        let days = Days::default().and(Weekday::Sunday).and(Weekday::Wednesday);
        let cuts = Cuts::Weekly(days);
        // 2026-11-28 is a Saturday
        assert_eq!(cuts.start_of(date(2026, 11, 28)), date(2026, 11, 25));
        assert_eq!(cuts.next_after(date(2026, 11, 28)), date(2026, 11, 29));
        assert_eq!(cuts.start_of(date(2026, 11, 29)), date(2026, 11, 29));
    }

    #[test]
    fn many_windows_later_is_as_if_counted_one_by_one() {
        let days = Days::default().and(Weekday::Sunday).and(Weekday::Wednesday).and(Weekday::Thursday);
        let all = [Cuts::Daily, Cuts::Weekly(days), Cuts::Monthly(31), Cuts::Monthly(1)];
        for cuts in all.into_iter().chain([29, 1].map(|day| Cuts::Yearly { month: 2, day })) {
            let start = cuts.start_of(date(2023, 12, 30));
            let mut one_by_one = start;
            for n in 0..40 {
                assert_eq!(cuts.nth_after(start, n), one_by_one, "{cuts:?}, {n}");
                one_by_one = cuts.next_after(one_by_one);
            }
            assert_eq!(cuts.nth_after(start, usize::MAX), Date::MAX);
        }
    }

    #[test]
    fn the_calendar_has_ends() {
        let never = Cuts::Weekly(Days::default());
        assert_eq!(never.start_of(date(2026, 1, 1)), Date::MIN);
        assert_eq!(never.next_after(date(2026, 1, 1)), Date::MAX);
    }
}
